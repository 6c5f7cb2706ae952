"""From a model, a subject and settings to the objects of the bilevel loop."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from apdm_cli.diffusion.condition import Condition
from apdm_cli.diffusion.latents import LatentDistribution
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.picture_cache import class_pictures, generated_latents
from apdm_cli.diffusion.pictures import to_pixels
from apdm_cli.diffusion.sampling import SamplerSettings
from apdm_cli.personalization.dreambooth import DreamBoothLoss, PictureSource
from apdm_cli.personalization.optimizers import adamw
from apdm_cli.protection.l2p import LearningToProtect
from apdm_cli.protection.low_memory import map_weights, with_mapped_moments
from apdm_cli.protection.objective import PairSource, ProtectionObjective
from apdm_cli.protection.preservation import ClassPictures, Distillation, PreservationTerm
from apdm_cli.protection.prompts import distillation_captions, training_prompts
from apdm_cli.protection.settings import ProtectionSettings
from apdm_cli.randomness import Streams
from apdm_cli.subject import Subject

DISTILLATION_SEED = 1  # class pictures of attacks and evaluation use other seeds


@dataclass(frozen=True)
class Ingredients:
    """Latents of everything a protection run draws from; constant over the run.

    Attributes:
        photos: of the subject, x⁻.
        generic: class pictures made by φ, x⁺ and x^pr.
        distilled: latents φ generated for `captions`, one each; empty without distillation.
    """

    photos: LatentDistribution
    generic: LatentDistribution
    distilled: LatentDistribution
    captions: tuple[str, ...]


def prepare(
    model: DiffusionModel,
    subject: Subject,
    settings: ProtectionSettings,
    cache: Path,
    *,
    low_memory: bool = False,
    drawn: Callable[[int], None] | None = None,
) -> Ingredients:
    """Encode the photos and let φ draw the class pictures and the distilled latents.

    Args:
        cache: folder for what φ draws. Photos and their latents stay in memory.
        low_memory: one picture at a time.
        drawn: called with the number of pictures that were just drawn or found in the cache.
    """
    if low_memory:
        model.family.save_memory(model.components)
    sampler = drawing(model, settings, low_memory=low_memory)
    prompt, captions = subject.class_prompt, distillation_captions(subject, settings)
    count = pictures_needed(subject, settings)
    pictures = class_pictures(model, prompt, count, sampler, cache, drawn=drawn)
    latents = torch.empty(0, *model.latent_shape)
    if captions:
        latents = generated_latents(model, captions, sampler, cache, DISTILLATION_SEED, drawn=drawn)
    return Ingredients(
        model.encode_pixels(subject.photos.pixels),
        model.encode_pixels(to_pixels(pictures)),
        LatentDistribution.exact(latents),
        captions,
    )


def drawing(
    model: DiffusionModel, settings: ProtectionSettings, *, low_memory: bool = False
) -> SamplerSettings:
    """How φ draws the class pictures, and how previews are drawn."""
    return SamplerSettings(
        sampler=model.family.defaults.class_sampler,
        steps=settings.sampler_steps,
        guidance=settings.sampler_guidance,
        batch_size=1 if low_memory else 8,
    )


def pictures_needed(subject: Subject, settings: ProtectionSettings) -> int:
    """Number of class pictures: every photo has one of its own, whatever `prior_pictures` says."""
    return max(settings.prior_pictures, len(subject.photos))


def stand_ins(model: DiffusionModel, subject: Subject, settings: ProtectionSettings) -> Ingredients:
    """Random latents of the right shapes, to measure time and memory before anything is drawn."""
    generator = Streams(0).generator("protect/stand-ins")

    def random(count: int) -> LatentDistribution:
        latents = torch.randn(count, *model.latent_shape, generator=generator)
        return LatentDistribution.exact(latents.to(model.device))

    captions = distillation_captions(subject, settings)
    count = len(subject.photos)
    return Ingredients(random(count), random(count), random(len(captions)), captions)


def assemble(
    model: DiffusionModel,
    subject: Subject,
    settings: ProtectionSettings,
    streams: Streams,
    ingredients: Ingredients,
    *,
    low_memory: bool = False,
) -> LearningToProtect:
    """Wire the bilevel loop. Prompts are encoded here, once.

    Args:
        model: its trained network becomes θ and is trained in place; φ and θ′ are copies.
        low_memory: recompute activations and run one forward at a time; on the CPU also keep φ and
            the optimizers' moments in memory-mapped files. Slower; changes results by rounding.
    """
    if low_memory:
        settings = settings.model_copy(update={"batched_forwards": False})
        model.family.save_memory(model.components)
    files = low_memory and model.device.type == "cpu"
    original = copy.deepcopy(model.trained).requires_grad_(False).eval()
    reference = model.denoiser.with_network(original)
    if files:
        map_weights(original)
    path = model.denoiser
    if settings.steps_inner > 0:
        path = path.with_network(copy.deepcopy(model.trained))
    photos, generic = ingredients.photos, ingredients.generic
    personal_prompt, class_prompt = training_prompts(subject, settings.prompt_style)
    personal, generic_condition = model.encode_text([personal_prompt, class_prompt]).split(1)
    process, limits = model.process, settings.path.timestep_range
    personalization = DreamBoothLoss(
        path,
        PictureSource(photos, streams, "protect/path/photos", process, limits),
        PictureSource(generic, streams, "protect/path/class", process, limits),
        lambda: personal,
        lambda: generic_condition,
        settings.path.batch_size,
        settings.path.prior_weight,
        one_forward=settings.batched_forwards,
    )
    kept = settings.preservation
    pictures = generic if kept.kind == "class-pictures" else ingredients.distilled
    source = PictureSource(pictures, streams, "protect/preservation", process)
    preservation: PreservationTerm
    if kept.kind == "class-pictures":
        preservation = ClassPictures(source, generic_condition, kept.batch_size)
    else:
        preservation = Distillation(
            source,
            _embed_each(model, ingredients.captions),
            personal,
            model.encode_text([""]),
            identifier_share=kept.identifier_share,
            empty_share=kept.empty_share,
            batch_size=kept.batch_size,
            streams=streams,
        )
    pairs = PairSource(photos, generic, settings, process, streams)
    objective = ProtectionObjective(reference, pairs, personal, preservation, settings)
    optimizer = adamw(settings.optimizer, settings.betas, settings.weight_decay)
    if files and settings.optimizer == "adamw":
        optimizer = with_mapped_moments(optimizer)
    return LearningToProtect(
        model.denoiser, path, original, personalization, objective, optimizer, settings
    )


def _embed_each(model: DiffusionModel, captions: tuple[str, ...]) -> Condition:
    """A batch of N; captions that repeat are encoded once."""
    distinct = list(dict.fromkeys(captions))
    place = {caption: index for index, caption in enumerate(distinct)}
    return model.encode_text(distinct).index([place[caption] for caption in captions])
