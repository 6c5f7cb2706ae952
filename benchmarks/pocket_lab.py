"""Measuring a pocket model itself: what it draws, and what the embedded extractor sees in it.

Attacks are not made here: `benchmarks.ground` has `apdm`'s own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.sampling import SamplerSettings, sample
from apdm_cli.evaluation.distances import frechet_distance
from apdm_cli.evaluation.extractors import Extractor, pocket_extractor
from apdm_cli.evaluation.similarity import cosines
from apdm_cli.extension.family import load_model
from apdm_cli.pocket.profile import POCKET, SOURCE
from benchmarks.ground import PHOTOS
from pocket_training.renderer import identity, photo

SAMPLER = SamplerSettings(
    sampler=POCKET.sampler, steps=POCKET.steps, guidance=POCKET.guidance, batch_size=64
)
# Sampling seeds.
JUDGED_SEEDS, SEEDS_A, SEEDS_B = 7_000_000, 8_000_000, 9_000_000


@dataclass
class Lab:
    """A model of the pocket's kind, and the embedded extractor.

    Attributes:
        source: "pocket", or a diffusers folder.
    """

    source: str = SOURCE

    @cached_property
    def model(self) -> DiffusionModel:
        """The model; never trained."""
        return load_model(self.source, torch.device("cpu"))

    @cached_property
    def extractor(self) -> Extractor:
        """The embedded feature extractor."""
        return pocket_extractor(torch.device("cpu"))

    def features(self, pictures: Tensor) -> Tensor:
        """Class tokens (N, D) of uint8 pictures (N, R, R, 3)."""
        return self.extractor.features(pictures)

    def draw(self, prompt: str, count: int, first_seed: int) -> Tensor:
        """`count` pictures of `prompt`, uint8 (count, R, R, 3)."""
        seeds = range(first_seed, first_seed + count)
        return torch.cat(list(sample(self.model, [prompt] * count, seeds, SAMPLER)))

    def similarity(self, pictures: Tensor, photos: Tensor) -> float:
        """Mean cosine over all pairs of two uint8 picture sets, as the metric `dino` has it."""
        return float(cosines(self.features(pictures), self.features(photos)).mean())

    def distance(self, first: Tensor, second: Tensor) -> float:
        """Fréchet distance of two picture sets in the extractor's features."""
        return frechet_distance(self.features(first), self.features(second))


def portraits(class_noun: str, seed: int, count: int = PHOTOS) -> Tensor:
    """The first renderings of an identity, uint8 (count, 64, 64, 3): those that are protected."""
    someone = identity(class_noun, seed)
    return torch.from_numpy(np.stack([np.array(photo(someone, n)) for n in range(count)]))
