"""Whether a picture shows what its prompt says."""

from __future__ import annotations

from typing import ClassVar, Literal

from apdm_cli.extension.metric import Pictures, Score
from apdm_metrics.clip import ClipMetric
from apdm_metrics.scores import mean_score, nothing_to_score
from apdm_metrics.usable import usable


class ClipText(ClipMetric):
    """Mean CLIP cosine of picture and prompt, the identifier left out."""

    name = "clip-t"
    better: ClassVar[Literal["lower", "higher"]] = "higher"
    needs = frozenset({"prompts"})

    def score(self, pictures: Pictures) -> Score:
        from apdm_cli.evaluation.similarity import paired_cosines

        kept = usable(pictures.images)
        skipped = int((~kept).sum())
        if not kept.any():
            return nothing_to_score(self, self.clip.backend, skipped)
        prompts = [text for text, one in zip(pictures.prompts, kept, strict=True) if one]
        values = paired_cosines(
            self.clip.images(pictures.images[kept]), self.clip.texts(prompts)
        ).cpu()
        return mean_score(self, values, skipped, self.clip.backend)
