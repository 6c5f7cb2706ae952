"""Similarity of the pictures to the subject's photos."""

from __future__ import annotations

from typing import ClassVar, Literal

from apdm_cli.extension.metric import Pictures, Score
from apdm_metrics.usable import nothing_to_score, usable
from apdm_metrics.vit import VitMetric


class Dino(VitMetric):
    """Mean cosine over all photo x picture pairs of the class tokens (lower protects better)."""

    name = "dino"
    better: ClassVar[Literal["lower", "higher"]] = "lower"
    needs = frozenset({"photos"})

    def score(self, pictures: Pictures) -> Score:
        from apdm_cli.evaluation.intervals import pairs_interval
        from apdm_cli.evaluation.similarity import cosines

        assert pictures.photos is not None
        kept = usable(pictures.images)
        skipped = int((~kept).sum())
        if not kept.any():
            return nothing_to_score(self, self.extractor.backend, skipped)
        matrix = cosines(
            self.extractor.features(pictures.photos),
            self.extractor.features(pictures.images[kept]),
        ).cpu()
        low, high = pairs_interval(matrix)
        return Score(
            self.name,
            float(matrix.mean()),
            matrix.shape[1],
            skipped,
            self.better,
            self.extractor.backend,
            low,
            high,
            tuple(matrix.mean(0).tolist()),
        )
