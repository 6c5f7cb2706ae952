"""Choosing metrics: wrong names, missing backends, and plugins of other people."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from apdm_cli.errors import UsageError
from apdm_cli.evaluation.scoring import open_panel
from apdm_cli.extension.metric import Backend, Metric, MetricUnavailable, Pictures, Score
from apdm_cli.scores import Unavailable


class Brightness(Metric):
    """Mean of all pixels."""

    name = "brightness"
    kind = "quality"
    better = "higher"
    better_for_others = "higher"

    def prepare(self, model: Any, device: torch.device) -> None:
        self.prepared = self.weights.get("brightness")

    def score(self, pictures: Pictures) -> Score:
        value = float(pictures.images.float().mean())
        return Score(self.name, value, len(pictures.images), 0, Backend("mean", "-"))


class Paired(Brightness):
    """Needs a partner."""

    name = "paired"
    needs = frozenset({"pairs"})


class Missing(Brightness):
    """Has no weights."""

    name = "missing"

    def prepare(self, model: Any, device: torch.device) -> None:
        raise MetricUnavailable("the weights are on the moon")


class OnRequest(Brightness):
    """Costs a lot."""

    name = "on-request"
    optional = True


class Model:
    device = torch.device("cpu")


def panel(*names: str, weights: dict[str, str] | None = None) -> Any:
    metrics = [Brightness(), Paired(), Missing(), OnRequest()]
    return open_panel(names, Model(), weights or {}, {one.name: one for one in metrics})  # type: ignore[arg-type]


IMAGES = torch.full((2, 4, 4, 3), 7, dtype=torch.uint8)


def test_auto_is_everything_that_can_be_used_and_is_not_optional() -> None:
    found = panel("auto")
    assert [metric.name for metric in found.metrics] == ["brightness", "paired"]
    assert found.unavailable == [
        Unavailable(metric="missing", reason="the weights are on the moon")
    ]


def test_named_metrics_come_once_and_in_order() -> None:
    found = panel("on-request", "brightness", "on-request")
    assert [metric.name for metric in found.metrics] == ["on-request", "brightness"]


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no metric 'brightnes'.*brightness"):
        panel("brightnes")
    with pytest.raises(UsageError, match=r"brihgtness.*Known are: .*brightness.*inception"):
        panel("auto", weights={"brihgtness": "x"})


def test_weights_reach_the_metrics_before_they_are_prepared() -> None:
    assert panel("brightness", weights={"brightness": "here"}).metrics[0].prepared == "here"


def test_a_metric_is_only_asked_about_pictures_that_suffice() -> None:
    found = panel("auto")
    assert [score.metric for score in found.scores(Pictures(IMAGES))] == ["brightness"]
    both = found.scores(Pictures(IMAGES, pairs=IMAGES))
    assert [score.metric for score in both] == ["brightness", "paired"]
    about = found.scores(Pictures(IMAGES, pairs=IMAGES), "pairs")
    assert [score.metric for score in about] == ["paired"]


def test_a_score_never_travels_alone() -> None:
    found = panel("brightness")
    (score,) = found.scores(Pictures(IMAGES))
    assert (score.value, score.n, score.skipped) == (7, 2, 0)
    assert score.backend == Backend("mean", "-")
    (meaning,) = found.meanings
    assert (meaning.name, meaning.title) == ("brightness", "brightness")
    assert meaning.explanation == "Mean of all pixels.", "the docstring, where nothing is declared"


def test_a_stand_in_is_named_wherever_the_metric_is() -> None:
    def shown(metric: str, backend: Backend) -> str:
        return Score(metric, 0.0, 1, 0, backend).shown

    assert shown("dino", Backend("pocket-vit", "-", "pocket-vit")) == "dino[pocket-vit]"
    assert shown("fid", Backend("inception-pytorch-fid", "-")) == "fid"
