"""L_protect: what is drawn, which way a step goes, and that batching changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from apdm_cli.protection.objective import PairSource
from apdm_cli.randomness import Streams
from tests.protection import toys


def pairs(pairing: str, photos: int = 3, pictures: int = 5, seed: int = 0) -> Any:
    """Latents that say which picture they are: the mean of photo i is i, of picture j 100 + j."""

    def numbered(count: int, first: int) -> Any:
        return toys.LatentDistribution.exact(
            torch.arange(first, first + count, dtype=torch.float32).view(-1, 1, 1, 1)
        )

    chosen = toys.settings(pairing=pairing)
    source = PairSource(
        numbered(photos, 0), numbered(pictures, 100), chosen, toys.process(), Streams(seed)
    )
    drawn = source.draw(200)
    return drawn, drawn.negative.latents.flatten(), drawn.positive.latents.flatten() - 100


def test_photo_and_class_picture_are_paired_by_number() -> None:
    _, photo, picture = pairs("paired")
    assert torch.equal(photo, picture)
    assert set(photo.tolist()) == {0, 1, 2}


def test_random_pairing_uses_every_picture_with_every_photo() -> None:
    _, photo, picture = pairs("random")
    assert len(set(zip(photo.tolist(), picture.tolist(), strict=True))) == 3 * 5


def test_members_of_a_pair_share_noise_and_timestep() -> None:
    drawn, _, _ = pairs("paired")
    assert torch.equal(drawn.positive.noise, drawn.negative.noise)
    assert torch.equal(drawn.positive.timesteps, drawn.negative.timesteps)
    assert len(set(drawn.positive.timesteps.tolist())) > 100


def test_timestep_range_limits_the_pairs_only() -> None:
    chosen = toys.settings(timestep_range=(0.2, 0.3))
    objective = toys.objective(toys.denoiser(), chosen)
    steps = objective.pairs.draw(500).positive.timesteps
    assert steps.min() >= 200 and steps.max() < 300
    kept = torch.cat([objective.preservation.draw().draw.timesteps for _ in range(50)])
    assert kept.min() < 200 and kept.max() > 300


@pytest.mark.parametrize("objective", ["dpo", "naive"])
def test_a_step_raises_the_error_on_photos(objective: str) -> None:
    positive, negative = change_of_errors(objective)
    assert negative > 0
    if objective == "dpo":
        assert positive < 0


def change_of_errors(objective: str) -> tuple[float, float]:
    """How the errors on the very batch of a small gradient step change."""
    start = toys.denoiser()
    chosen = toys.settings(objective=objective, batch_size=4, preservation={"weight": 0})
    chosen_objective = toys.objective(toys.denoiser(), chosen)
    drawn = toys.record(chosen_objective.pairs, "draw")
    terms = chosen_objective.evaluate(start, with_preservation=True)
    terms.total.backward()
    personal = toys.condition(toys.PERSONAL).expand(4)
    members = [drawn[0].positive, drawn[0].negative]

    @torch.no_grad()
    def errors() -> list[float]:
        return [
            error.mean().item() for error in start.squared_errors(members, [personal, personal])
        ]

    before = errors()
    with torch.no_grad():
        for weight in start.network.parameters():
            if weight.grad is not None:
                weight.sub_(1e-2 * weight.grad)
    after = errors()
    return after[0] - before[0], after[1] - before[1]


def test_margins_are_zero_at_the_original() -> None:
    terms = toys.objective(toys.denoiser(), toys.settings()).evaluate(
        toys.denoiser(), with_preservation=True
    )
    assert (terms.measured().positive_margin, terms.measured().negative_margin) == pytest.approx(
        (0, 0), abs=1e-6
    )
    assert terms.measured().objective == pytest.approx(0.6931472)


def test_distillation_is_zero_at_the_original_and_positive_elsewhere() -> None:
    chosen = toys.settings(preservation={"kind": "distill", "batch_size": 4})
    same = toys.objective(toys.denoiser(), chosen).evaluate(toys.denoiser(), with_preservation=True)
    other = toys.objective(toys.denoiser(), chosen).evaluate(
        toys.denoiser(seed=1), with_preservation=True
    )
    assert same.measured().preservation == 0
    assert other.measured().preservation > 0


def test_preservation_enters_with_its_weight() -> None:
    def total(weight: float) -> float:
        chosen = toys.settings(preservation={"weight": weight})
        objective = toys.objective(toys.denoiser(), chosen)
        return objective.evaluate(toys.denoiser(seed=1), with_preservation=True).total.item()

    without, once, twice = total(0.0), total(1.0), total(2.0)
    assert once > without
    assert twice - without == pytest.approx(2 * (once - without), rel=1e-4)


@pytest.mark.parametrize("kind", ["class-pictures", "distill"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_batched_forwards_give_the_gradient_of_single_ones(kind: str, prediction_type: str) -> None:
    def gradient(together: bool) -> torch.Tensor:
        policy = toys.denoiser(prediction_type, seed=1)
        chosen = toys.settings(
            batched_forwards=together,
            batch_size=2,
            preservation={"kind": kind, "batch_size": 3, "weight": 2.0},
        )
        objective = toys.objective(toys.denoiser(prediction_type), chosen)
        objective.evaluate(policy, with_preservation=True).total.backward()
        return toys.gradients(policy.network)

    one_batch, one_by_one = gradient(True), gradient(False)
    assert one_by_one.norm() > 0
    assert (one_batch - one_by_one).norm() < 1e-5 * one_by_one.norm()


def test_reference_gets_no_gradient() -> None:
    reference = toys.denoiser()
    chosen = toys.settings(preservation={"kind": "distill"})
    objective = toys.objective(reference, chosen)
    objective.evaluate(toys.denoiser(seed=1), with_preservation=True).total.backward()
    assert toys.gradients(reference.network).abs().max() == 0
