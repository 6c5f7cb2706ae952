"""Fréchet distance between what two models draw."""

from __future__ import annotations

from typing import ClassVar, Literal

from apdm_cli.extension.metric import Pictures, Score
from apdm_metrics.inception import DistributionMetric
from apdm_metrics.scores import distance_score


class Fid(DistributionMetric):
    """Fréchet distance of features, float64; depends on n: compare equal n only."""

    name = "fid"
    better: ClassVar[Literal["lower", "higher"]] = "lower"
    needs = frozenset({"reference"})

    def score(self, pictures: Pictures) -> Score:
        from apdm_cli.evaluation.distances import frechet_distance

        extractor = self.extractor
        return distance_score(
            self, pictures, extractor.features, frechet_distance, extractor.backend
        )
