"""Metrics by name, their backends, and the scores of one set of pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.photos import Photos
from apdm_cli.diffusion.pictures import from_unit
from apdm_cli.errors import ApdmError, said
from apdm_cli.evaluation.choosing import choose_metrics
from apdm_cli.extension.containment import contained, named
from apdm_cli.extension.manager import build_plugin_manager, metrics
from apdm_cli.extension.metric import Metric, MetricUnavailable, Pictures
from apdm_cli.scores import FAILED, MetricMeaning, Score, Unavailable

LONGEST = 500  # characters of what it said


@dataclass
class Panel:
    """Metrics whose backend is loaded, and why the others are not here."""

    metrics: list[Metric]
    unavailable: list[Unavailable] = field(default_factory=list)
    said: Callable[[str], None] = lambda sentence: None

    @property
    def meanings(self) -> tuple[MetricMeaning, ...]:
        """What the scores mean, in the order of the metrics."""
        return tuple(metric.meaning for metric in self.metrics)

    def scores(self, pictures: Pictures, about: str | None = None) -> tuple[Score, ...]:
        """A score by every metric that `pictures` suffice for.

        Args:
            about: only metrics that need this field ("photos": similarity to the subject).
        """
        there = {name for name in Pictures.__dataclass_fields__ if _given(getattr(pictures, name))}
        found = (
            self._score(metric, pictures)
            for metric in self.metrics
            if metric.needs <= there and (about is None or about in metric.needs)
        )
        return tuple(score for score in found if score is not None)

    def _score(self, metric: Metric, pictures: Pictures) -> Score | None:
        """By one metric; None where it fails, which costs nobody else.

        A metric is anybody's code: it gets pictures of its own, and whatever it raises, or returns
        in the place of a score, is noted once.
        """
        try:
            with contained(f"the metric {metric.name}"):
                score = metric.score(_own(pictures))
            if not isinstance(score, Score):
                raise TypeError(f"it returned a {type(score).__name__}, not a Score")
            if score.metric != metric.name:
                raise ValueError(f"it returned a score of {score.metric!r}")
            _check_numbers(score)
        except Exception as error:
            self._failed(metric, error)
            return None
        return score

    def _failed(self, metric: Metric, error: Exception) -> None:
        # What left by SystemExit comes as an ApdmError with that as its cause.
        if isinstance(error, ApdmError):
            words = named(error.__cause__) if error.__cause__ else error.what
        else:
            words = named(error)
        reason = f"{FAILED}{words[:LONGEST]}"
        if not any(one.metric == metric.name for one in self.unavailable):
            self.unavailable.append(Unavailable(metric=metric.name, reason=reason))
            self.said(f"{metric.name} is left out where it {reason}")


def open_panel(
    names: Sequence[str],
    model: DiffusionModel,
    weights: dict[str, str],
    available: dict[str, Metric] | None = None,
    verified: Callable[[str], DiffusionModel] | None = None,
) -> Panel:
    """The metrics `names` ("auto": all that are not optional), ready for pictures of `model`.

    Args:
        weights: backend name → path.
        available: name → metric; what the plugins bring, if None.
        verified: (who was shown the model) → the model, loaded again where they changed it.

    Raises:
        UsageError: as `choose_metrics`.
    """
    available = metrics(build_plugin_manager()) if available is None else available
    panel = Panel([])
    for metric in dict.fromkeys(choose_metrics(names, weights, available)):
        who = f"the metric {metric.name}"
        try:
            with contained(who):
                metric.weights = weights
                metric.prepare(model, model.device)
            if verified is not None and (now := verified(who)) is not model:
                model = now
                raise ApdmError("it has changed the model that it was shown")
        except MetricUnavailable as error:
            panel.unavailable.append(Unavailable(metric=metric.name, reason=said(error)))
        except Exception as error:
            panel._failed(metric, error)
        else:
            panel.metrics.append(metric)
    return panel


def _check_numbers(score: Score) -> None:
    """What cannot be scored is skipped: scores.json has no word for it among the others."""
    for picture_value in score.per_picture:
        if not math.isfinite(picture_value):
            raise ValueError(f"it returned {picture_value} for a picture, not a number")
    if math.isinf(score.value) or (math.isnan(score.value) and score.n > 0):
        raise ValueError(f"it returned {score.value} for {score.n} pictures, not a number")
    for name, end in (("low", score.low), ("high", score.high)):
        if end is not None and not math.isfinite(end):
            raise ValueError(f"it returned {end} as {name}, not a number or None")


def photo_pictures(photos: Photos) -> Tensor:
    """Photos as uint8 (M, R, R, 3), in memory."""
    return from_unit(photos.pixels / 2 + 0.5)


def _own(pictures: Pictures) -> Pictures:
    """A copy that may be changed."""
    copies: dict[str, Any] = {
        name: value.clone()
        for name in Pictures.__dataclass_fields__
        if isinstance(value := getattr(pictures, name), torch.Tensor)
    }
    return replace(pictures, **copies)


def _given(value: Any) -> bool:
    return value is not None and (isinstance(value, torch.Tensor) or len(value) > 0)
