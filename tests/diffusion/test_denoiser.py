"""Targets of every prediction type, and predictions in batches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from apdm_cli.diffusion.condition import Condition
from apdm_cli.diffusion.denoiser import Denoiser, NoisyDraw
from apdm_cli.diffusion.process import PREDICTION_TYPES
from apdm_cli.errors import ApdmError
from tests.protection import toys


@dataclass
class Oracle:
    """Knows the noise up to an error `off`, and answers in the parametrization it is asked in."""

    prediction_type: str
    draw: NoisyDraw
    off: Tensor

    def __call__(self, noisy: Tensor, timesteps: Tensor, **_: Tensor) -> SimpleNamespace:
        kept = toys.schedule().alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        signal, spread = kept.sqrt(), (1 - kept).sqrt()
        noise = self.draw.noise + self.off
        latents = (noisy - spread * noise) / signal
        velocity = signal * noise - spread * latents
        answers = {"epsilon": noise, "sample": latents, "v_prediction": velocity}
        return SimpleNamespace(sample=answers[self.prediction_type])


def oracle(prediction_type: str, draw: NoisyDraw, off: Tensor) -> Denoiser:
    network: nn.Module = Oracle(prediction_type, draw, off)  # type: ignore[assignment]
    return Denoiser(network, toys.process(prediction_type), toys.FAMILY.predict)


def squared_error(denoiser: Denoiser, draw: NoisyDraw, condition: Condition) -> Tensor:
    (error,) = denoiser.squared_errors([draw], [condition])
    return error


def early(count: int = 6) -> NoisyDraw:
    """A draw at timesteps where float32 can tell the parametrizations apart."""
    draw = toys.draw(count, seed=3)
    return draw._replace(timesteps=draw.timesteps // 2)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_an_exact_model_has_no_error_in_any_parametrization(prediction_type: str) -> None:
    draw = early()
    exact = oracle(prediction_type, draw, torch.zeros_like(draw.noise))
    error = squared_error(exact, draw, toys.condition(0, len(draw.noise)))
    assert error.shape == draw.latents.shape
    assert error.max() < 1e-8


def test_the_same_mistake_is_the_same_in_every_parametrization() -> None:
    """An error δ in ε is δ²/ᾱ in v and δ²(1−ᾱ)/ᾱ in x: as the change of variables says."""
    draw = early()
    off = 0.1 * toys.random(*draw.noise.shape, seed=9)
    kept = toys.schedule().alphas_cumprod[draw.timesteps].view(-1, 1, 1, 1)
    factors = {"epsilon": torch.ones_like(kept), "v_prediction": 1 / kept, "sample": 1 / kept - 1}
    for prediction_type, factor in factors.items():
        error = squared_error(oracle(prediction_type, draw, off), draw, toys.condition(0, 6))
        assert torch.allclose(error, off.square() * factor, rtol=1e-3, atol=1e-6), prediction_type


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_wrong_targets_would_be_noticed(prediction_type: str) -> None:
    draw = early()
    for other in set(PREDICTION_TYPES) - {prediction_type}:
        right = oracle(prediction_type, draw, torch.zeros_like(draw.noise))
        wrong = replace(right, process=toys.process(other))
        assert squared_error(wrong, draw, toys.condition(0, 6)).mean() > 0.01


def test_unknown_prediction_type_is_refused() -> None:
    with pytest.raises(ApdmError, match="'flow'"):
        toys.process("flow")


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_one_forward_is_several(prediction_type: str) -> None:
    denoiser = toys.denoiser(prediction_type)
    draws = [toys.draw(2, 0), toys.draw(1, 1), toys.draw(3, 2)]
    conditions = [toys.condition(i, len(draw.noise)) for i, draw in enumerate(draws)]
    with torch.no_grad():
        together = denoiser.squared_errors(draws, conditions)
        apart = denoiser.squared_errors(draws, conditions, one_forward=False)
    assert [len(error) for error in together] == [2, 1, 3]
    for one, other, draw, condition in zip(together, apart, draws, conditions, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-6)
        assert torch.equal(other, squared_error(denoiser, draw, condition))


def test_lower_precision_computes_in_it_and_answers_in_float32() -> None:
    full = toys.denoiser()
    low = replace(full, dtype=torch.bfloat16)
    draw, condition = toys.draw(2, 0), toys.condition(0, 2)
    with torch.no_grad():
        one, other = (squared_error(each, draw, condition) for each in (full, low))
    assert other.dtype == torch.float32
    assert not torch.equal(one, other)
    assert torch.allclose(one, other, rtol=0.2, atol=0.2)
