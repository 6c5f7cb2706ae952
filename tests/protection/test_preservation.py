"""Captions of the distilled samples, and the class pictures' term."""

from __future__ import annotations

import pytest
import torch

from apdm_cli.diffusion.condition import Condition
from apdm_cli.personalization.dreambooth import PictureSource
from apdm_cli.protection.preservation import Distillation
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
