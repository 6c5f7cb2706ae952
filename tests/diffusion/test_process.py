"""Noise processes against diffusers' own schedule, and against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from apdm_cli.diffusion.process import (
    PREDICTION_TYPES,
    FlowMatching,
    NoiseProcess,
    timestep_range,
)
from apdm_cli.errors import UsageError
from apdm_cli.randomness import Streams
from tests.protection import toys

PROCESSES = {
    **{name: toys.process(name) for name in PREDICTION_TYPES},
    "flow": FlowMatching(),
    "shifted flow": FlowMatching(uniform=True, shift=3.0),
}


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_diffusion_is_that_of_diffusers(prediction_type: str) -> None:
    """Bit for bit: the numbers of every earlier run came from there."""
    theirs, ours = toys.schedule(prediction_type), toys.process(prediction_type)
    latents, noise, timesteps = toys.draw(6, 0)
    assert torch.equal(
        ours.noised(latents, noise, timesteps), theirs.add_noise(latents, noise, timesteps)
    )
    expected = {
        "epsilon": noise,
        "sample": latents,
        "v_prediction": theirs.get_velocity(latents, noise, timesteps),
    }
    assert torch.equal(ours.target(latents, noise, timesteps), expected[prediction_type])


def test_a_flow_goes_straight_from_latents_to_noise() -> None:
    flow = FlowMatching()
    latents, noise, _ = toys.draw(3, 0)
    ends = torch.tensor([0.0, 1000.0, 250.0])
    noised = flow.noised(latents, noise, ends)
    assert torch.equal(noised[0], latents[0]) and torch.equal(noised[1], noise[1])
    # Going back along the velocity by σ leads to the latents, from anywhere.
    velocity = flow.target(latents, noise, ends)
    assert torch.allclose((noised - 0.25 * velocity)[2], latents[2], atol=1e-6)


def test_flow_timesteps_are_logit_normal() -> None:
    draw = FlowMatching().draw_timesteps
    sigma = draw(4000, (0.0, 1.0), Streams(0).generator("a")) / 1000
    normal = torch.logit(sigma)
    assert normal.mean().abs() < 0.06 and (normal.std() - 1).abs() < 0.06
    assert sigma.min() > 0 and sigma.max() < 1


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
@pytest.mark.parametrize("limits", [(0.0, 0.6), (0.25, 0.5), (0.9, 1.0)])
def test_limits_hold_in_every_process(process: NoiseProcess, limits: tuple[float, float]) -> None:
    steps = process.draw_timesteps(2000, limits, Streams(0).generator("a")) / 1000
    assert steps.shape == (2000,)
    assert limits[0] <= steps.min() and steps.max() <= limits[1]
    assert steps.max() - steps.min() > 0.9 * (limits[1] - limits[0]) - 0.03


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ((0.0, 1.0), range(1000)),
        ((0.0, 0.6), range(600)),
        ((0.5, 0.5001), range(500, 501)),
        ((0.9999, 1.0), range(999, 1000)),
    ],
)
def test_timestep_range(limits: tuple[float, float], expected: range) -> None:
    assert timestep_range(limits, 1000) == expected


def test_min_snr_weighs_every_parametrization_alike() -> None:
    """The weighted loss of one mistake is the same, whichever way the model speaks."""
    timesteps = torch.tensor([10, 200, 500, 900])
    kept = toys.schedule().alphas_cumprod[timesteps]
    # A squared error of 1 in x is SNR in ε and 1/(1−ᾱ) in v.
    errors = {"sample": torch.ones(4), "epsilon": kept / (1 - kept), "v_prediction": 1 / (1 - kept)}
    weighted = [
        error * toys.process(name).min_snr_weight(timesteps, 5.0) for name, error in errors.items()
    ]
    assert torch.allclose(weighted[0], weighted[1], rtol=1e-4)
    assert torch.allclose(weighted[0], weighted[2], rtol=1e-4)
    assert weighted[0].max() == 5.0


def test_min_snr_of_a_flow_weighs_the_latents_alike() -> None:
    """An error of 1 in x is one of 1/σ in the velocity."""
    flow, sigma = FlowMatching(), torch.tensor([0.1, 0.5, 0.9])
    weighted = flow.min_snr_weight(1000 * sigma, 5.0) / sigma.square()
    assert torch.allclose(weighted, torch.tensor([5.0, 1.0, (0.1 / 0.9) ** 2]), rtol=1e-4)


def drawn(process: NoiseProcess, limits: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    return process.draw_timesteps(20_000, limits, Streams(0).generator("a")).double() / 1000


def test_uniform_timesteps_of_a_flow() -> None:
    """Every tenth of the schedule gets a tenth."""
    counts = torch.histc(drawn(FlowMatching(uniform=True)), 10, 0, 1)
    assert (counts / 20_000 - 0.1).abs().max() < 0.01


@pytest.mark.parametrize("uniform", [True, False])
def test_a_shift_moves_timesteps_as_its_equation_says(uniform: bool) -> None:
    plain, shifted = (drawn(FlowMatching(uniform=uniform, shift=s)) for s in (1.0, 3.0))
    assert torch.allclose(shifted, 3 * plain / (1 + 2 * plain), atol=1e-4)


def test_a_shifted_logit_normal_is_one_of_another_mean() -> None:
    """log(σ / (1 − σ)) grows by log s: trainers that shift and trainers that set the mean agree."""
    other = drawn(FlowMatching(mean=math.log(3.0)))
    assert torch.allclose(drawn(FlowMatching(shift=3.0)), other, atol=1e-4)


def test_limits_are_those_of_the_shifted_timesteps() -> None:
    found = drawn(FlowMatching(shift=3.0), (0.2, 0.4))
    assert 0.2 <= found.min() < 0.21 and 0.39 < found.max() <= 0.4


def test_timesteps_are_redrawn() -> None:
    flow = FlowMatching(shift=3.0)
    assert flow.redrawn("model", 0) == flow
    assert flow.redrawn("uniform", 0) == FlowMatching(uniform=True, shift=3.0)
    assert flow.redrawn("logit-normal", 1.5) == FlowMatching(shift=1.5)
    diffusion = toys.process("epsilon")
    assert diffusion.redrawn("uniform", 0) is diffusion is diffusion.redrawn("model", 0)
    sigmoid = diffusion.redrawn("logit-normal", 0)
    assert sigmoid.redrawn("uniform", 0).logit_normal is False
    assert sigmoid.redrawn("model", 0) is sigmoid
    with pytest.raises(UsageError, match="for models of flow matching"):
        diffusion.redrawn("model", 3.0)


@pytest.mark.parametrize("limits", [(0.0, 1.0), (0.2, 0.6), (0.5, 0.5004)])
def test_logit_normal_timesteps_of_a_diffusion(limits: tuple[float, float]) -> None:
    """T · sigmoid(N(0, 1)), between the limits: its quantiles are the normal distribution's."""
    process = toys.process("epsilon").redrawn("logit-normal", 0)
    steps = process.draw_timesteps(20_000, limits, Streams(0).generator("steps"))
    allowed = timestep_range(limits, 1000)
    assert steps.dtype == torch.int64
    assert steps.min() >= allowed.start and steps.max() < allowed.stop
    if limits == (0.0, 1.0):
        normal = torch.distributions.Normal(0.0, 1.0)
        for share in (0.05, 0.25, 0.5, 0.9):
            expected = 1000 * torch.sigmoid(normal.icdf(torch.tensor(share)))
            assert steps.float().quantile(share) == pytest.approx(float(expected), abs=8)
