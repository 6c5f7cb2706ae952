"""Whether the pictures differ among themselves: collapse looks like protection."""

from __future__ import annotations

from typing import ClassVar, Literal

from apdm_cli.extension.metric import Pictures, Score
from apdm_metrics.scores import nothing_to_score
from apdm_metrics.usable import usable
from apdm_metrics.vit import VitMetric


class Diversity(VitMetric):
    """1 − mean pairwise cosine of the pictures' class tokens; near 0: the same picture again."""

    name = "diversity"
    better: ClassVar[Literal["lower", "higher"]] = "higher"
    needs: ClassVar[frozenset[str]] = frozenset()

    def score(self, pictures: Pictures) -> Score:
        from apdm_cli.evaluation.intervals import off_diagonal_interval
        from apdm_cli.evaluation.similarity import cosines, off_diagonal_mean

        kept = usable(pictures.images)
        skipped = int((~kept).sum())
        if kept.sum() < 2:
            return nothing_to_score(self, self.extractor.backend, skipped)
        found = self.extractor.features(pictures.images[kept])
        matrix = 1 - cosines(found, found).cpu()
        low, high = off_diagonal_interval(matrix)
        return Score(
            self.name,
            float(off_diagonal_mean(matrix)),
            len(matrix),
            skipped,
            self.better,
            self.extractor.backend,
            low,
            high,
        )
