"""From pictures to a `Score`: what metrics of the same kind share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from apdm_cli.extension.metric import Backend, Metric, Pictures, Score

if TYPE_CHECKING:
    from torch import Tensor


def usable(pictures: Tensor) -> Tensor:
    """Mask (N,): True where uint8 (N, H, W, 3) is not one colour all over.

    A broken model draws black, and NaN pixels have become black by the time a picture is uint8, so
    they are found here too.
    """
    flat = pictures.flatten(1, 2)
    return (flat.amax(1) != flat.amin(1)).any(-1)


def nothing_to_score(metric: Metric, backend: Backend, skipped: int, why: str = "") -> Score:
    """The score of a set in which too few pictures can be used: NaN, n = 0, and why."""
    return Score(metric.name, math.nan, 0, skipped, backend, why=why)


def mean_score(metric: Metric, values: Tensor, skipped: int, backend: Backend) -> Score:
    """Mean of one value (N,) a picture, with its interval."""
    from apdm_cli.evaluation.intervals import mean_interval

    low, high = mean_interval(values)
    return Score(
        metric.name, float(values.mean()), len(values), skipped, backend,
        low, high, tuple(values.tolist()),
    )  # fmt: skip


def photos_score(
    metric: Metric, pictures: Pictures, features: Callable[[Tensor], Tensor], backend: Backend
) -> Score:
    """Mean cosine over all photo x picture pairs, with its interval.

    The subject fidelity of DreamBooth (Ruiz et al. 2023, section 4.2).
    """
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
        metric.name, float(matrix.mean()), matrix.shape[1], skipped, backend,
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
    return Score(metric.name, value, len(x), skipped, backend, low, high)
