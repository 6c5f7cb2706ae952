"""How much the protected model changed what the original draws from the same noise."""

from __future__ import annotations

from typing import ClassVar, Literal

from apdm_cli.extension.metric import Pictures, Score
from apdm_metrics.scores import mean_score, nothing_to_score
from apdm_metrics.usable import usable
from apdm_metrics.vit import VitMetric


class SameSeed(VitMetric):
    """Mean cosine of a picture with the original model's of the same prompt and seed."""

    name = "same-seed"
    better: ClassVar[Literal["lower", "higher"]] = "higher"
    needs = frozenset({"pairs"})

    def score(self, pictures: Pictures) -> Score:
        from apdm_cli.evaluation.similarity import paired_cosines

        assert pictures.pairs is not None
        kept = usable(pictures.images) & usable(pictures.pairs)
        skipped = int((~kept).sum())
        if not kept.any():
            return nothing_to_score(self, self.extractor.backend, skipped)
        values = paired_cosines(
            self.extractor.features(pictures.images[kept]),
            self.extractor.features(pictures.pairs[kept]),
        ).cpu()
        return mean_score(self, values, skipped, self.extractor.backend)
