"""What φ makes before a protection begins: latents of photos, class pictures, captions, others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from apdm_cli.diffusion.latents import LatentDistribution
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.photos import load_photos
from apdm_cli.diffusion.picture_cache import class_pictures, generated_latents
from apdm_cli.diffusion.pictures import to_pixels
from apdm_cli.diffusion.sampling import SamplerSettings
from apdm_cli.extension.protection import Inputs
from apdm_cli.extension.protection_config import ProtectionConfig
from apdm_cli.progress import Progress, Silent
from apdm_cli.randomness import Streams
from apdm_cli.subject import Subject

# Class pictures of attacks and evaluation use other seeds.
CAPTIONS_SEED, OTHERS_SEED = 1, 2


@dataclass(frozen=True)
class Ingredients:
    """Latents of everything a protection run draws from; constant over the run.

    Attributes:
        photos: of the subject, x⁻.
        class_pictures: made by φ, x⁺ and x^pr; at least one a photo.
        captioned: what φ drew of the inputs' captions, one each.
        others: of every other subject.
    """

    photos: LatentDistribution
    class_pictures: LatentDistribution
    captioned: LatentDistribution
    others: tuple[LatentDistribution, ...] = ()


def prepare(
    model: DiffusionModel,
    subject: Subject,
    inputs: Inputs,
    sampler: SamplerSettings,
    cache: Path,
    progress: Progress | None = None,
) -> Ingredients:
    """Encode the photos and let φ draw what is asked for.

    Args:
        sampler: see `drawing`.
        cache: folder for what φ draws. Photos and their latents stay in memory.
    """
    progress = progress or Silent()
    count = pictures_needed(subject, inputs)
    progress.stage("Drawing class pictures", count + inputs.drawn, unit="pictures")
    generic = _nothing(model)
    if count:
        prompt = subject.class_prompt
        pictures = class_pictures(model, prompt, count, sampler, cache, drawn=progress.advance)
        generic = model.encode_pixels(to_pixels(pictures))

    def latents(captions: Sequence[str], seed: int) -> LatentDistribution:
        if not captions:
            return _nothing(model)
        found = generated_latents(model, captions, sampler, cache, seed, drawn=progress.advance)
        return LatentDistribution.exact(found)

    captioned = latents(inputs.captions, CAPTIONS_SEED)
    together = latents([caption for group in inputs.others for caption in group], OTHERS_SEED)
    places = iter(range(len(together)))
    others = [together.select([next(places) for _ in group]) for group in inputs.others]
    for folder in inputs.folders:
        loaded = load_photos([Path(folder)], model.resolution, may_ignore=False)
        others.append(model.encode_pixels(loaded.pixels))
    photos = encode_photos(model, subject)
    return Ingredients(photos, generic, captioned, tuple(others))


def encode_photos(model: DiffusionModel, subject: Subject) -> LatentDistribution:
    """Their latents; none of a subject without photos."""
    return model.encode_pixels(subject.photos.pixels) if len(subject.photos) else _nothing(model)


def stand_ins(model: DiffusionModel, subject: Subject, inputs: Inputs) -> Ingredients:
    """Random latents of the right shapes, to measure time and memory before anything is drawn."""
    generator = Streams(0).generator("protect/stand-ins")

    def random(count: int) -> LatentDistribution:
        latents = torch.randn(count, *model.latent_shape, generator=generator)
        return LatentDistribution.exact(latents.to(model.device))

    return Ingredients(
        random(len(subject.photos)),
        random(pictures_needed(subject, inputs)),
        random(len(inputs.captions)),
        tuple(random(len(group)) for group in inputs.others)
        + tuple(random(len(subject.photos)) for _ in inputs.folders),
    )


def pictures_needed(subject: Subject, inputs: Inputs) -> int:
    """Number of class pictures: every photo has one of its own, whatever was asked for."""
    return max(inputs.class_pictures, len(subject.photos)) if inputs.class_pictures else 0


def drawing(
    model: DiffusionModel, config: ProtectionConfig, *, low_memory: bool = False
) -> SamplerSettings:
    """How φ draws the class pictures, and how previews are drawn."""
    return SamplerSettings(
        sampler=model.family.defaults.class_sampler,
        steps=config.sampler_steps,
        guidance=config.sampler_guidance,
        batch_size=1 if low_memory else 8,
    )


def _nothing(model: DiffusionModel) -> LatentDistribution:
    return LatentDistribution.exact(torch.empty(0, *model.latent_shape))
