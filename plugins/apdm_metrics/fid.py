"""Fréchet distance between what two models draw."""

from __future__ import annotations

from typing import ClassVar, Literal

from apdm_cli.extension.metric import Pictures, Score
from apdm_metrics.inception import DistributionMetric
from apdm_metrics.usable import nothing_to_score, usable


class Fid(DistributionMetric):
    """Fréchet distance of features, float64; depends on n: compare equal n only."""

    name = "fid"
    better: ClassVar[Literal["lower", "higher"]] = "lower"
    needs = frozenset({"reference"})

    def score(self, pictures: Pictures) -> Score:
        from apdm_cli.evaluation.distances import frechet_distance
        from apdm_cli.evaluation.intervals import distance_interval

        assert pictures.reference is not None
        kept = usable(pictures.images)
        skipped = int((~kept).sum())
        reference = pictures.reference[usable(pictures.reference)]
        if kept.sum() < 2 or len(reference) < 2:
            return nothing_to_score(self, self.extractor.backend, skipped)
        x = self.extractor.features(pictures.images[kept])
        y = self.extractor.features(reference)
        value = frechet_distance(x, y)
        low, high = distance_interval(value, frechet_distance, x, y)
        return Score(
            self.name, value, len(x), skipped, self.better, self.extractor.backend, low, high
        )
