"""Captions of the distilled samples, and the class pictures' term."""

from __future__ import annotations

import pytest
import torch

from apdm_cli.diffusion.condition import Condition
from apdm_cli.personalization.dreambooth import PictureSource
from apdm_cli.protection.preservation import Distillation, TypicalError, typical_error
from apdm_cli.randomness import Streams
from tests.protection import toys


def captions(identifier_share: float, empty_share: float) -> list[str]:
    streams = Streams(0)
    term = Distillation(
        PictureSource(toys.latents(4, 2), streams, "preservation", toys.process()),
        Condition({"text": torch.ones(4, 1, 1)}),
        Condition({"text": torch.full((1, 1, 1), 2.0)}),
        Condition({"text": torch.zeros(1, 1, 1)}),
        identifier_share=identifier_share,
        empty_share=empty_share,
        batch_size=2000,
        streams=streams,
    )
    names = {0.0: "empty", 1.0: "own", 2.0: "personal"}
    return [names[value] for value in term.draw().condition["text"].flatten().tolist()]


@pytest.mark.parametrize("shares", [(0.25, 0.25), (0.1, 0.6), (0.0, 0.5), (0.5, 0.5)])
def test_shares_of_captions(shares: tuple[float, float]) -> None:
    drawn = captions(*shares)
    assert drawn.count("personal") / 2000 == pytest.approx(shares[0], abs=0.04)
    assert drawn.count("empty") / 2000 == pytest.approx(shares[1], abs=0.04)


def test_without_shares_every_sample_keeps_its_caption() -> None:
    assert set(captions(0.0, 0.0)) == {"own"}


def test_class_pictures_are_judged_by_the_training_target() -> None:
    denoiser = toys.denoiser("v_prediction")
    objective = toys.objective(toys.denoiser("v_prediction"), toys.settings())
    drawn = toys.record(objective.preservation, "draw")
    value = objective.preserve(denoiser)
    expected_condition = toys.condition(toys.CLASS)
    assert torch.equal(drawn[0].condition["text"], expected_condition["text"])
    (expected,) = denoiser.squared_errors([drawn[0].draw], [expected_condition])
    assert value.item() == pytest.approx(expected.mean().item())


def test_typical_error_is_interpolated_on_a_logarithmic_scale() -> None:
    typical = TypicalError(torch.tensor([100.0, 300.0, 500.0]), torch.tensor([1.0, 0.01, 0.0001]))
    found = typical.at(torch.tensor([0, 100, 200, 300, 350, 500, 999]))
    assert found.tolist() == pytest.approx([1.0, 1.0, 0.1, 0.01, 10**-2.5, 1e-4, 1e-4], rel=1e-4)


def test_typical_error_is_phis_own() -> None:
    reference = toys.denoiser()
    latents, condition = toys.latents(8, 2), toys.condition(7, count=8)
    typical = typical_error(reference, latents, condition, Streams(0))
    # The mean over many draws around a timestep, computed without it.
    for timestep in (50, 950):
        draws = 400
        rows = torch.arange(draws) % 8
        steps = torch.randint(timestep - 20, timestep + 20, (draws,), generator=_generator())
        clean = latents.mean[rows]
        noise = toys.random(*clean.shape, seed=5)
        draw = toys.NoisyDraw(clean, noise, steps)
        (error,) = reference.squared_errors([draw], [condition.index(rows)])
        measured = typical.at(torch.tensor([timestep])).item()
        assert measured == pytest.approx(error.mean().item(), rel=0.25)


def distilled(**more: float) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Relative distillation: its value, θ's difference from φ (B, C, H, W), and 1 / ē (B,)."""
    chosen = toys.settings(preservation={"kind": "distill", "batch_size": 3, **more})
    objective = toys.objective(toys.denoiser(), chosen)
    objective.typical = TypicalError(torch.tensor([0.0, 999.0]), torch.tensor([1.0, 0.001]))
    drawn = toys.record(objective.preservation, "draw")
    policy = toys.denoiser(seed=1)
    value = objective.preserve(policy).item()
    (prediction,) = policy.predict_each([drawn[0].draw], [drawn[0].condition])
    (original,) = objective.reference.predict_each([drawn[0].draw], [drawn[0].condition])
    return value, prediction - original, 10.0 ** (3 * drawn[0].draw.timesteps / 999)


def test_relative_distillation_divides_by_phis_error_at_the_timestep() -> None:
    value, difference, weights = distilled()
    each = difference.square().mean(dim=(1, 2, 3))
    assert value == pytest.approx((each * weights).mean().item(), rel=1e-4)


def test_the_mean_of_a_channel_weighs_as_much_as_is_asked() -> None:
    value, difference, weights = distilled(means=2.0)
    pixels = difference.shape[2] * difference.shape[3]
    offset = difference.mean(dim=(2, 3))
    each = difference.square().mean(dim=(1, 2, 3)) + 2 * pixels * offset.square().mean(dim=1)
    assert value == pytest.approx((each * weights).mean().item(), rel=1e-4)


def test_settings_that_weigh_no_means_are_those_of_before_there_was_such_a_term() -> None:
    assert "means" not in toys.settings().description()["preservation"]
    weighed = toys.settings(preservation={"means": 1.0})
    assert weighed.description()["preservation"]["means"] == 1.0


def _generator() -> torch.Generator:
    return Streams(9).generator("steps")
