"""Kernel distance between what two models draw."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from apdm_cli.extension.metric import Pictures, Score
from apdm_metrics.inception import DistributionMetric
from apdm_metrics.scores import distance_score

if TYPE_CHECKING:
    from torch import Tensor


class Kid(DistributionMetric):
    """Unbiased kernel distance of features (cubic kernel), float64; about 0 for equal models."""

    name = "kid"
    better: ClassVar[Literal["lower", "higher"]] = "lower"
    needs = frozenset({"reference"})

    def score(self, pictures: Pictures) -> Score:
        extractor = self.extractor
        return distance_score(self, pictures, extractor.features, _distance, extractor.backend)


def _distance(x: Tensor, y: Tensor) -> float:
    from apdm_cli.evaluation.distances import kernel_distance
    from apdm_cli.randomness import Streams

    # The subsets are drawn from an order that the pictures' own does not reach.
    x, y = x[x[:, 0].argsort()], y[y[:, 0].argsort()]
    return kernel_distance(x, y, Streams(0).generator("kid"))
