"""Whether a picture shows what its prompt says."""

from __future__ import annotations

from typing import ClassVar, Literal

from apdm_cli.extension.metric import Pictures, Score
from apdm_metrics.clip import ClipMetric
from apdm_metrics.usable import nothing_to_score, usable


class ClipText(ClipMetric):
    """Mean CLIP cosine of picture and prompt, the identifier left out."""

    name = "clip-t"
    better: ClassVar[Literal["lower", "higher"]] = "higher"
    needs = frozenset({"prompts"})

    def score(self, pictures: Pictures) -> Score:
        from apdm_cli.evaluation.intervals import mean_interval
        from apdm_cli.evaluation.similarity import paired_cosines

        kept = usable(pictures.images)
        skipped = int((~kept).sum())
        if not kept.any():
            return nothing_to_score(self, self.clip.backend, skipped)
        prompts = [text for text, one in zip(pictures.prompts, kept, strict=True) if one]
        values = paired_cosines(
            self.clip.images(pictures.images[kept]), self.clip.texts(prompts)
        ).cpu()
        low, high = mean_interval(values)
        return Score(
            self.name,
            float(values.mean()),
            len(values),
            skipped,
            self.better,
            self.clip.backend,
            low,
            high,
            tuple(values.tolist()),
        )
