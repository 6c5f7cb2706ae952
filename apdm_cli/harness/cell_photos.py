"""The photos of one cell, as its attacker has them: cut, transformed and encoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from apdm_cli.diffusion.buckets import PhotoCut, buckets_for, encode_cuts
from apdm_cli.diffusion.latents import LatentDistribution
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.harness.plan import Job
from apdm_cli.harness.transforms import apply_transforms, transformed_masks
from apdm_cli.randomness import Streams
from apdm_cli.subject import Subject


@dataclass(frozen=True)
class CellPhotos:
    """What a cell learns from.

    Attributes:
        key: what that depends on, beside the model.
        subject: with photos that are squares, whatever shapes are trained on: what the attacker
            looks at and compares with.
        latents: that are trained on.
    """

    key: tuple[Any, ...]
    subject: Subject
    latents: LatentDistribution

    @staticmethod
    def key_of(job: Job) -> tuple[Any, ...]:
        """The key of the photos of `job`."""
        config = job.config
        # Transforms are drawn from the seed.
        changes = (job.transforms, job.seed if job.transforms else None)
        options = (config.captions, config.masks, config.photo_count, config.buckets)
        return (job.subject, changes, *options)

    @classmethod
    def of(cls, job: Job, base: DiffusionModel) -> CellPhotos:
        """Those of `job`, encoded by `base`.

        Raises:
            ApdmError: they cannot be read, or their masks.
            UsageError: `base` takes no shapes as `job` wants them.
        """
        config = job.config
        subject = job.subject.load(base.resolution)
        pixels = apply_transforms(subject.photos.pixels, job.transforms, Streams(job.seed))
        captions = job.subject.captions() if config.captions else ()
        masks = None
        if config.masks and not config.buckets:
            masks = job.subject.load_masks(base.resolution)
            masks = transformed_masks(masks, job.transforms, Streams(job.seed))
        photos = replace(subject.photos, pixels=pixels, captions=captions, masks=masks)
        photos = photos.first(config.photo_count)
        if config.buckets:
            buckets = buckets_for(base, config.buckets)
            cuts = job.subject.load_cuts(buckets, masked=config.masks)
            latents = encode_cuts(base, _transformed(cuts, job)[: len(photos)])
        else:
            latents = base.encode_pixels(photos.pixels)
        return cls(cls.key_of(job), replace(subject, photos=photos), latents)

    def copy(self) -> CellPhotos:
        """The same in tensors of their own: an attack may do with them what it likes."""
        photos = self.subject.photos
        masks = None if photos.masks is None else photos.masks.clone()
        photos = replace(photos, pixels=photos.pixels.clone(), masks=masks)
        return CellPhotos(self.key, replace(self.subject, photos=photos), self.latents.clone())


def _transformed(cuts: Sequence[PhotoCut], job: Job) -> list[PhotoCut]:
    shown, moved = Streams(job.seed), Streams(job.seed)

    def mask(cut: PhotoCut) -> Tensor | None:
        return None if cut.mask is None else transformed_masks(cut.mask, job.transforms, moved)

    return [
        replace(cut, pixels=apply_transforms(cut.pixels, job.transforms, shown), mask=mask(cut))
        for cut in cuts
    ]
