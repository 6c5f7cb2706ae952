"""Similarity of the pictures to the subject's photos, as CLIP sees it."""

from __future__ import annotations

from typing import ClassVar, Literal

from apdm_cli.extension.metric import Pictures, Score
from apdm_metrics.clip import ClipMetric
from apdm_metrics.usable import nothing_to_score, usable


class ClipImage(ClipMetric):
    """Mean CLIP cosine over all photo x picture pairs (lower protects better)."""

    name = "clip-i"
    better: ClassVar[Literal["lower", "higher"]] = "lower"
    needs = frozenset({"photos"})

    def score(self, pictures: Pictures) -> Score:
        from apdm_cli.evaluation.intervals import pairs_interval
        from apdm_cli.evaluation.similarity import cosines

        assert pictures.photos is not None
        kept = usable(pictures.images)
        skipped = int((~kept).sum())
        if not kept.any():
            return nothing_to_score(self, self.clip.backend, skipped)
        matrix = cosines(
            self.clip.images(pictures.photos), self.clip.images(pictures.images[kept])
        ).cpu()
        low, high = pairs_interval(matrix)
        return Score(
            self.name,
            float(matrix.mean()),
            matrix.shape[1],
            skipped,
            self.better,
            self.clip.backend,
            low,
            high,
            tuple(matrix.mean(0).tolist()),
        )
