"""Similarity of the pictures to the subject's photos."""

from __future__ import annotations

from typing import ClassVar, Literal

from apdm_cli.extension.metric import Pictures, Score
from apdm_metrics.scores import photos_score
from apdm_metrics.vit import VitMetric


class Dino(VitMetric):
    """Mean cosine over all photo x picture pairs of the class tokens (lower protects better)."""

    name = "dino"
    better: ClassVar[Literal["lower", "higher"]] = "lower"
    needs = frozenset({"photos"})

    def score(self, pictures: Pictures) -> Score:
        return photos_score(self, pictures, self.extractor.features, self.extractor.backend)
