"""Similarity in the space of a vision transformer's class tokens: DINO, or the pocket extractor."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from apdm_cli.errors import ApdmError
from apdm_cli.evaluation.profiles import is_pocket
from apdm_cli.extension.metric import Metric, MetricUnavailable, Pictures, Score
from apdm_metrics.lookup import given, hub_folder
from apdm_metrics.scores import mean_score, nothing_to_score, photos_score, usable

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from apdm_cli.diffusion.model import DiffusionModel
    from apdm_cli.evaluation.extractors import Extractor

DINO_KEY, POCKET_KEY = "dino", "pocket-vit"
FILES = ("config.json", "model.safetensors")


class VitMetric(Metric):
    """A metric on class tokens: DINO for photographs, the pocket extractor for pocket pictures.

    `--weights dino=FOLDER` forces DINO, `--weights pocket-vit=FOLDER` another pocket extractor.
    """

    reads = (DINO_KEY, POCKET_KEY)
    extractor: Extractor

    def prepare(self, model: DiffusionModel, device: torch.device) -> None:
        self.extractor = choose_extractor(model, device, self.weights)


class Dino(VitMetric):
    """Mean cosine over all photo x picture pairs of the class tokens (lower protects better)."""

    name = "dino"
    title = "Similarity to the subject"
    explanation = (
        "How much the pictures look like the subject: cosine between the extractor's features of "
        "every photo and every picture. 1 is the same, about 0 is somebody else. Lower protects "
        "better."
    )
    kind = "similarity"
    better = "lower"
    better_for_others = "higher"
    leads = True
    needs = frozenset({"photos"})

    def score(self, pictures: Pictures) -> Score:
        return photos_score(self, pictures, self.extractor.features, self.extractor.backend)


class SameSeed(VitMetric):
    """Mean cosine of a picture with the original model's of the same prompt and seed."""

    name = "same-seed"
    title = "Same picture as before"
    explanation = (
        "Cosine between what the original and the protected model draw from one seed. 1: the "
        "protection left that picture alone."
    )
    kind = "similarity"
    better = "higher"
    better_for_others = "higher"
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


class Diversity(VitMetric):
    """1 − mean pairwise cosine of the pictures' class tokens; near 0: the same picture again."""

    name = "diversity"
    title = "Variety"
    explanation = (
        "1 − mean similarity between an attack's own pictures. Near 0 the model draws one and the "
        "same picture, which can look like protection."
    )
    kind = "quality"
    better = "higher"
    better_for_others = "higher"
    collapse = "near 0 is a collapse"

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
            self.extractor.backend,
            low,
            high,
        )


def choose_extractor(
    model: DiffusionModel, device: torch.device, weights: Mapping[str, str]
) -> Extractor:
    """DINO when asked for or found; the pocket extractor for the pocket model or without DINO."""
    dino, pocket = given(weights, DINO_KEY), given(weights, POCKET_KEY)
    try:
        if dino:
            return _dino(dino, device)
        if pocket or is_pocket(model):
            return _pocket(pocket, device)
        try:
            return _dino(hub_folder("facebook/dino-vits16", FILES), device)
        except (MetricUnavailable, ApdmError):
            return _pocket(None, device)
    except ApdmError as error:
        raise MetricUnavailable(str(error)) from error


@lru_cache(maxsize=2)
def _dino(folder: Path, device: torch.device) -> Extractor:
    from apdm_cli.evaluation.extractors import dino_extractor

    return dino_extractor(device, folder)


@lru_cache(maxsize=2)
def _pocket(folder: Path | None, device: torch.device) -> Extractor:
    from apdm_cli.evaluation.extractors import pocket_extractor

    return pocket_extractor(device, folder)
