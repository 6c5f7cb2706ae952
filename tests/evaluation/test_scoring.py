"""Choosing metrics: wrong names, missing backends, and plugins of other people."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from apdm_cli.errors import UsageError
from apdm_cli.evaluation.choosing import choose_metrics
from apdm_cli.evaluation.scoring import open_panel
from apdm_cli.extension.manager import build_plugin_manager, metrics
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
    with pytest.raises(UsageError, match=r"brihgtness.*Known are: .*brightness"):
        panel("auto", weights={"brihgtness": "x"})


def test_weights_have_the_names_that_metrics_read_and_no_others() -> None:
    known = metrics(build_plugin_manager())
    for name in ("dino", "pocket-vit", "inception", "clip", "lpips", "identity", "brisque"):
        assert choose_metrics(["fid"], {name: "x"}, known)
    for name in ("fid", "kid", "clip-i", "clip-t", "fdfr", "same-seed", "brisque-paper"):
        with pytest.raises(UsageError, match=rf"--weights {name}: .*clip, dino.*inception"):
            choose_metrics(["fid"], {name: "x"}, known)


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


class Broken(Brightness):
    """Does what `act` says instead of scoring."""

    name = "broken"
    act: Callable[[Pictures], Any]
    at_once = False

    def prepare(self, model: Any, device: torch.device) -> None:
        if self.at_once:
            self.act(Pictures(IMAGES))

    def score(self, pictures: Pictures) -> Any:
        return self.act(pictures)


def raising(error: BaseException) -> Callable[[Pictures], Any]:
    def act(pictures: Pictures) -> Any:
        raise error

    return act


def broken_panel(act: Callable[[Pictures], Any], at_once: bool = False) -> Any:
    broken = Broken()
    broken.act, broken.at_once = act, at_once
    metrics = [broken, Brightness()]
    return open_panel(("auto",), Model(), {}, {one.name: one for one in metrics})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (raising(ZeroDivisionError("by nothing")), "failed: ZeroDivisionError: by nothing"),
        (raising(SystemExit(3)), "failed: SystemExit: 3"),
        (lambda pictures: 0.5, "failed: TypeError: it returned a float, not a Score"),
        (lambda pictures: None, "failed: TypeError: it returned a NoneType, not a Score"),
        (
            lambda pictures: Brightness().score(pictures),
            "failed: ValueError: it returned a score of 'brightness'",
        ),
        (
            lambda pictures: Score(
                "broken", 1.0, 2, 0, Backend("mean", "-"), per_picture=(1.0, math.nan)
            ),
            "failed: ValueError: it returned nan for a picture, not a number",
        ),
        *(
            (
                lambda pictures, value=value: Score("broken", value, 4, 0, Backend("mean", "-")),
                f"failed: ValueError: it returned {value} for 4 pictures, not a number",
            )
            for value in (math.inf, -math.inf, math.nan)
        ),
        *(
            (
                lambda pictures, ends=ends: Score("broken", 1, 4, 0, Backend("mean", "-"), **ends),
                f"failed: ValueError: it returned {value} as {end}, not a number or None",
            )
            for ends in ({"low": -math.inf}, {"high": math.inf}, {"low": 0.5, "high": math.nan})
            for end, value in list(ends.items())[-1:]
        ),
    ],
)
@pytest.mark.parametrize("times", [1, 3])
def test_a_metric_that_fails_costs_itself_alone_and_is_noted_once(
    act: Callable[[Pictures], Any], reason: str, times: int
) -> None:
    found = broken_panel(act)
    said: list[str] = []
    found.said = said.append
    for _ in range(times):
        assert [score.metric for score in found.scores(Pictures(IMAGES))] == ["brightness"]
    assert found.unavailable == [Unavailable(metric="broken", reason=reason)]
    assert said == [f"broken is left out where it {reason}"]


def test_a_metric_that_fails_at_once_is_not_asked_again() -> None:
    found = broken_panel(raising(ZeroDivisionError("x" * 2000)), at_once=True)
    assert [metric.name for metric in found.metrics] == ["brightness"]
    (missing,) = found.unavailable
    assert missing.reason.startswith("failed: ZeroDivisionError: xxx")
    assert len(missing.reason) < 600


def test_an_interrupt_is_nobodys_failure() -> None:
    with pytest.raises(KeyboardInterrupt):
        broken_panel(raising(KeyboardInterrupt()), at_once=True)
    found = broken_panel(raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        found.scores(Pictures(IMAGES))
    assert found.unavailable == []


def test_a_metric_that_paints_over_its_pictures_spoils_nobody_elses() -> None:
    def painted(pictures: Pictures) -> Score:
        pictures.images.zero_()
        return Score("broken", 0.0, 2, 0, Backend("mean", "-"))

    images = IMAGES.clone()
    first, second = broken_panel(painted).scores(Pictures(images))
    assert (first.value, second.value) == (0, 7)
    assert torch.equal(images, IMAGES)
