"""Kernel distance between what two models draw."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from apdm_cli.extension.metric import Pictures, Score
from apdm_metrics.inception import DistributionMetric
from apdm_metrics.usable import nothing_to_score, usable

if TYPE_CHECKING:
    from torch import Tensor


class Kid(DistributionMetric):
    """Unbiased kernel distance of features (cubic kernel), float64; about 0 for equal models."""

    name = "kid"
    better: ClassVar[Literal["lower", "higher"]] = "lower"
    needs = frozenset({"reference"})

    def score(self, pictures: Pictures) -> Score:
        from apdm_cli.evaluation.intervals import distance_interval

        assert pictures.reference is not None
        kept = usable(pictures.images)
        skipped = int((~kept).sum())
        reference = pictures.reference[usable(pictures.reference)]
        if kept.sum() < 2 or len(reference) < 2:
            return nothing_to_score(self, self.extractor.backend, skipped)
        x = self.extractor.features(pictures.images[kept])
        y = self.extractor.features(reference)
        value = _distance(x, y)
        low, high = distance_interval(value, _distance, x, y)
        return Score(
            self.name, value, len(x), skipped, self.better, self.extractor.backend, low, high
        )


def _distance(x: Tensor, y: Tensor) -> float:
    from apdm_cli.evaluation.distances import kernel_distance
    from apdm_cli.randomness import Streams

    # The subsets are drawn from an order that the pictures' own does not reach.
    x, y = x[x[:, 0].argsort()], y[y[:, 0].argsort()]
    return kernel_distance(x, y, Streams(0).generator("kid"))
