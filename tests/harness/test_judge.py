"""What an attacker judges by: the evaluation's own likeness, where it is installed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from apdm_cli.extension.metric import Backend, Metric, MetricUnavailable, Pictures, Score
from apdm_cli.harness.judge import make_judge


class Likeness(Metric):
    """Mean absolute difference to the photos."""

    name = "dino"
    kind = "similarity"
    better = "lower"
    better_for_others = "higher"
    needs = frozenset({"photos"})
    prepared: Any = None

    def prepare(self, model: Any, device: torch.device) -> None:
        self.prepared = model, device

    def score(self, pictures: Pictures) -> Score:
        assert pictures.photos is not None
        value = (pictures.images.float() - pictures.photos.float()).abs().mean().item()
        return Score(self.name, value, len(pictures.images), 0, Backend("mean", "-"))


class Elsewhere(Likeness):
    """Has no weights here."""

    def prepare(self, model: Any, device: torch.device) -> None:
        raise MetricUnavailable("the weights are on the moon")


class Model:
    device = torch.device("cpu")


def grey(value: int) -> Tensor:
    return torch.full((2, 4, 4, 3), value, dtype=torch.uint8)


def test_pictures_are_scored_against_the_photos_by_the_metric() -> None:
    metric, model = Likeness(), Model()
    judge = make_judge({"fid": Elsewhere(), "dino": metric})
    assert judge is not None
    score = judge(model, grey(10))  # type: ignore[arg-type]
    assert metric.prepared == (model, model.device)
    assert score is not None
    assert [score(grey(13)), score(grey(10))] == pytest.approx([3, 0])


def test_without_the_metric_or_its_weights_there_is_no_judgement() -> None:
    assert make_judge({"fid": Likeness()}) is None
    judge = make_judge({"dino": Elsewhere()})
    assert judge is not None
    assert judge(Model(), grey(10)) is None  # type: ignore[arg-type]
