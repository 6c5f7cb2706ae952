"""From pictures to a `Score`: what metrics of the same kind share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from apdm_cli.extension.metric import Backend, Metric, Pictures, Score
from apdm_metrics.usable import usable

if TYPE_CHECKING:
    from torch import Tensor

Better = Literal["lower", "higher"]


def nothing_to_score(metric: Metric, backend: Backend, skipped: int) -> Score:
    """The score of a set in which too few pictures can be used: NaN, n = 0."""
    return Score(metric.name, math.nan, 0, skipped, metric.better, backend)


def mean_score(
    metric: Metric,
    values: Tensor,
    skipped: int,
    backend: Backend,
    better: Better | None = None,
) -> Score:
    """Mean of one value (N,) a picture, with its interval.

    Args:
        better: where it depends on the pictures; the metric's own without one.
    """
    from apdm_cli.evaluation.intervals import mean_interval

    low, high = mean_interval(values)
    return Score(
        metric.name, float(values.mean()), len(values), skipped, better or metric.better, backend,
        low, high, tuple(values.tolist()),
    )  # fmt: skip


def photos_score(
    metric: Metric, pictures: Pictures, features: Callable[[Tensor], Tensor], backend: Backend
) -> Score:
    """Mean cosine over all photo x picture pairs (METHOD.md, "DINO"), with its interval."""
    from apdm_cli.evaluation.intervals import pairs_interval
    from apdm_cli.evaluation.similarity import cosines

    assert pictures.photos is not None
    kept = usable(pictures.images)
    skipped = int((~kept).sum())
    if not kept.any():
        return nothing_to_score(metric, backend, skipped)
    matrix = cosines(features(pictures.photos), features(pictures.images[kept])).cpu()
    low, high = pairs_interval(matrix)
    return Score(
        metric.name, float(matrix.mean()), matrix.shape[1], skipped, metric.better, backend,
        low, high, tuple(matrix.mean(0).tolist()),
    )  # fmt: skip


def distance_score(
    metric: Metric,
    pictures: Pictures,
    features: Callable[[Tensor], Tensor],
    distance: Callable[[Tensor, Tensor], float],
    backend: Backend,
) -> Score:
    """Distance of the pictures' features to the reference's, with its interval."""
    from apdm_cli.evaluation.intervals import distance_interval

    assert pictures.reference is not None
    kept = usable(pictures.images)
    skipped = int((~kept).sum())
    reference = pictures.reference[usable(pictures.reference)]
    if kept.sum() < 2 or len(reference) < 2:
        return nothing_to_score(metric, backend, skipped)
    x, y = features(pictures.images[kept]), features(reference)
    value = distance(x, y)
    low, high = distance_interval(value, distance, x, y)
    return Score(metric.name, value, len(x), skipped, metric.better, backend, low, high)
