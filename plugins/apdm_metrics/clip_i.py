"""Similarity of the pictures to the subject's photos, as CLIP sees it."""

from __future__ import annotations

from typing import ClassVar, Literal

from apdm_cli.extension.metric import Pictures, Score
from apdm_metrics.clip import ClipMetric
from apdm_metrics.scores import photos_score


class ClipImage(ClipMetric):
    """Mean CLIP cosine over all photo x picture pairs (lower protects better)."""

    name = "clip-i"
    better: ClassVar[Literal["lower", "higher"]] = "lower"
    needs = frozenset({"photos"})

    def score(self, pictures: Pictures) -> Score:
        return photos_score(self, pictures, self.clip.images, self.clip.backend)
