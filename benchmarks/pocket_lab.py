"""Shared by the pocket benchmarks: subjects drawn in memory, attacks, and what is measured.

Every number is computed from pictures by the embedded extractor; `similarity` is the mean cosine
over all (picture, photo) pairs, as the metric `dino` has it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.photos import Photos
from apdm_cli.diffusion.picture_cache import class_pictures
from apdm_cli.diffusion.pictures import to_pixels
from apdm_cli.diffusion.sampling import SamplerSettings, sample
from apdm_cli.evaluation.distances import frechet_distance
from apdm_cli.evaluation.extractors import Extractor, pocket_extractor
from apdm_cli.evaluation.similarity import cosines
from apdm_cli.extension.family import load_model
from apdm_cli.personalization.dreambooth import DreamBoothLoss, PictureSource
from apdm_cli.personalization.loop import train
from apdm_cli.personalization.optimizers import adamw
from apdm_cli.randomness import Streams
from apdm_cli.subject import Subject
from pocket_training.renderer import identity, photo

SAMPLER = SamplerSettings(sampler="ddim", steps=20, guidance=3.0, batch_size=64)
PHOTOS = 4
SEEN, UNSEEN = range(0, PHOTOS), range(PHOTOS, 2 * PHOTOS)
# Sampling seeds; disjoint from those of class pictures made for prior preservation.
JUDGED_SEEDS, SEEDS_A, SEEDS_B = 7_000_000, 8_000_000, 9_000_000


@dataclass(frozen=True)
class AttackSettings:
    """The demo's attack: DreamBooth on the U-Net (POCKET profile of plugin `dreambooth`)."""

    steps: int = 50
    learning_rate: float = 1e-4
    batch_size: int = 4
    prior_weight: float = 0.3
    prior_pictures: int = 16


@dataclass
class Lab:
    """The embedded model with its extractor, and a cache folder for what it draws by itself."""

    cache: Path
    attack: AttackSettings = field(default_factory=AttackSettings)
    source: str = "pocket"

    @cached_property
    def model(self) -> DiffusionModel:
        """The original pocket model; never trained (protect and attack copies)."""
        return load_model(self.source, torch.device("cpu"))

    @cached_property
    def extractor(self) -> Extractor:
        """The embedded feature extractor."""
        return pocket_extractor(torch.device("cpu"))

    def features(self, pictures: Tensor) -> Tensor:
        """Class tokens (N, D) of uint8 pictures (N, R, R, 3)."""
        return self.extractor.features(pictures)

    def draw(self, model: DiffusionModel, prompt: str, count: int, first_seed: int) -> Tensor:
        """`count` pictures of `prompt`, uint8 (count, R, R, 3)."""
        seeds = range(first_seed, first_seed + count)
        return torch.cat(list(sample(model, [prompt] * count, seeds, SAMPLER)))

    def similarity(self, pictures: Tensor, photos: Tensor) -> float:
        """Mean cosine over all pairs of two uint8 picture sets."""
        return float(cosines(self.features(pictures), self.features(photos)).mean())

    def same_seed_similarity(self, first: Tensor, second: Tensor) -> float:
        """Mean cosine of the i-th pictures of two sets."""
        return float(cosines(self.features(first), self.features(second)).diagonal().mean())

    def distance(self, first: Tensor, second: Tensor) -> float:
        """Fréchet distance of two picture sets in the extractor's features."""
        return frechet_distance(self.features(first), self.features(second))

    def personalize(
        self, model: DiffusionModel, subject: Subject, seed: int, stops: Sequence[int]
    ) -> Iterator[DiffusionModel]:
        """The lab's attack on a private copy of `model`; yields that copy after each of `stops`.

        One training: the copy that was yielded goes on when the next one is asked for.
        """
        settings = self.attack
        attacked = model.private_copy(text_encoders=False)
        pictures = class_pictures(
            model, subject.class_prompt, settings.prior_pictures, SAMPLER, self.cache
        )
        streams = Streams(seed)
        process = attacked.process
        personal, generic = attacked.encode_text(
            [subject.personal_prompt, subject.class_prompt]
        ).split(1)
        loss = DreamBoothLoss(
            attacked.denoiser,
            PictureSource(
                attacked.encode_pixels(subject.photos.pixels), streams, "attack/photos", process
            ),
            PictureSource(
                attacked.encode_pixels(to_pixels(pictures)), streams, "attack/class", process
            ),
            lambda: personal,
            lambda: generic,
            settings.batch_size,
            settings.prior_weight,
        )
        weights = list(attacked.trained.parameters())
        rate = settings.learning_rate
        optimizer = adamw("adamw", (0.9, 0.999), 1e-2)(weights, rate)
        total = range(max(stops))
        for step in train(loss, weights, optimizer, total, lambda _: rate, max_grad_norm=1.0):
            if step.index + 1 in stops:
                yield attacked

    def attacked_similarities(
        self,
        model: DiffusionModel,
        subject: Subject,
        seed: int,
        stops: Sequence[int] | None = None,
        pictures: int = 16,
    ) -> list[float]:
        """Personalize, draw `pictures` after each of `stops`, compare with the attacker's photos.

        Without `stops`: one value, after the whole attack.
        """
        photos = as_pictures(subject.photos)
        return [
            self.similarity(
                self.draw(attacked, subject.personal_prompt, pictures, JUDGED_SEEDS), photos
            )
            for attacked in self.personalize(model, subject, seed, stops or (self.attack.steps,))
        ]


def held_out_subject(class_noun: str, seed: int, photo_seeds: Sequence[int]) -> Subject:
    """An identity that no training ever saw, with the photos `photo_seeds`, drawn in memory."""
    someone = identity(class_noun, seed)
    arrays = [np.array(photo(someone, number)) for number in photo_seeds]
    pixels = to_pixels(torch.from_numpy(np.stack(arrays)))
    names = tuple(f"{number}.png" for number in photo_seeds)
    photos = Photos(names, tuple("" for _ in names), pixels)
    return Subject(f"{class_noun}-{seed}", class_noun, "sks", photos)


def as_pictures(photos: Photos) -> Tensor:
    """uint8 (N, R, R, 3) of photos in memory."""
    return ((photos.pixels + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)


def cut(undefended: float, protected: float, floor: float) -> float:
    """(undefended − protected) / (undefended − floor): 1 when nothing of the subject is left."""
    return (undefended - protected) / (undefended - floor)
