"""From a model, a subject and settings to the objects of the bilevel loop."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from apdm_cli.diffusion.class_pictures import class_pictures, generated_latents
from apdm_cli.diffusion.condition import Condition
from apdm_cli.diffusion.latents import LatentDistribution
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.photos import load_photos
from apdm_cli.diffusion.pictures import to_pixels
from apdm_cli.diffusion.sampling import SamplerSettings
from apdm_cli.personalization.dreambooth import PictureSource
from apdm_cli.personalization.optimizers import adamw
from apdm_cli.protection.attackers import Crew
from apdm_cli.protection.l2p import LearningToProtect
from apdm_cli.protection.low_memory import map_weights, with_mapped_moments
from apdm_cli.protection.objective import PairSource, ProtectionObjective
from apdm_cli.protection.preservation import (
    ClassPictures,
    Distillation,
    PreservationTerm,
    TypicalError,
    typical_error,
)
from apdm_cli.protection.prompts import distillation_captions, pseudo_subjects, training_subject
from apdm_cli.protection.settings import ProtectionSettings
from apdm_cli.protection.simulation import Simulator
from apdm_cli.randomness import Streams
from apdm_cli.subject import Subject

# Class pictures of attacks and evaluation use other seeds.
DISTILLATION_SEED, OTHERS_SEED = 1, 2


@dataclass(frozen=True)
class Ingredients:
    """Latents of everything a protection run draws from; constant over the run.

    Attributes:
        photos: of the subject, x⁻.
        generic: class pictures made by φ, x⁺ and x^pr.
        distilled: latents φ generated for `captions`, one each; empty without distillation.
        others: of every other subject that is taught inside the loop.
    """

    photos: LatentDistribution
    generic: LatentDistribution
    distilled: LatentDistribution
    captions: tuple[str, ...]
    others: tuple[LatentDistribution, ...] = ()


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
        model.pipeline.vae.enable_slicing()
    sampler = drawing(settings, low_memory=low_memory)
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
        _others(model, subject, settings, sampler, cache, drawn),
    )


def _others(
    model: DiffusionModel,
    subject: Subject,
    settings: ProtectionSettings,
    sampler: SamplerSettings,
    cache: Path,
    drawn: Callable[[int], None] | None,
) -> tuple[LatentDistribution, ...]:
    """Whom learners inside the loop are taught: photos from folders, or pseudo-subjects."""
    others = settings.others
    if others.count and others.folders:
        loaded = [load_photos([Path(folder)], model.resolution) for folder in others.folders]
        return tuple(model.encode_pixels(photos.pixels) for photos in loaded)
    captions = [c for c in pseudo_subjects(subject, settings) for _ in range(others.pictures)]
    if not captions:
        return ()
    latents = generated_latents(model, captions, sampler, cache, OTHERS_SEED, drawn=drawn)
    return tuple(LatentDistribution.exact(each) for each in latents.split(others.pictures))


def latents_needed(subject: Subject, settings: ProtectionSettings) -> int:
    """Number of pictures that φ draws and leaves as latents: distilled ones and others'."""
    others = len(pseudo_subjects(subject, settings)) * settings.others.pictures
    return len(distillation_captions(subject, settings)) + others


def drawing(settings: ProtectionSettings, *, low_memory: bool = False) -> SamplerSettings:
    """How φ draws the class pictures, and how previews are drawn."""
    return SamplerSettings(
        sampler="ddim",
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
    others = len(settings.others.folders) or len(pseudo_subjects(subject, settings))
    return Ingredients(
        random(count),
        random(count),
        random(len(captions)),
        captions,
        tuple(random(settings.others.pictures) for _ in range(others)),
    )


def assemble(
    model: DiffusionModel,
    subject: Subject,
    settings: ProtectionSettings,
    streams: Streams,
    ingredients: Ingredients,
    *,
    low_memory: bool = False,
    compile_forward: Callable[[nn.Module], None] = lambda module: None,
) -> LearningToProtect:
    """Wire the bilevel loop. Prompts are encoded here, once.

    Args:
        model: its U-Net becomes θ and is trained in place; φ and θ′ are copies.
        low_memory: recompute activations and run one forward at a time; on the CPU also keep φ and
            the optimizers' moments in memory-mapped files. Slower; changes results by rounding.
        compile_forward: called with every U-Net of θ's layers; see `compiled_forwards`.
    """
    if low_memory:
        settings = settings.model_copy(update={"batched_forwards": False})
        model.pipeline.unet.enable_gradient_checkpointing()
    files = low_memory and model.device.type == "cpu"
    reference = model.denoiser.with_unet(copy.deepcopy(model.unet).requires_grad_(False).eval())
    if files:
        map_weights(reference.unet)
    photos, generic = ingredients.photos, ingredients.generic
    named = training_subject(subject, settings.prompt_style)
    personal, generic_condition = model.encode_text(
        [named.personal_prompt, named.class_prompt]
    ).split(1)
    schedule = model.denoiser.training_timesteps
    kept = settings.preservation
    pictures = generic if kept.kind == "class-pictures" else ingredients.distilled
    source = PictureSource(pictures, streams, "protect/preservation", range(schedule))
    preservation: PreservationTerm
    typical: TypicalError | None = None
    if kept.kind == "class-pictures":
        preservation = ClassPictures(source, generic_condition, kept.batch_size)
    else:
        captions = _embed_each(model, ingredients.captions)
        preservation = Distillation(
            source,
            captions,
            personal,
            model.encode_text([""]),
            identifier_share=kept.identifier_share,
            empty_share=kept.empty_share,
            batch_size=kept.batch_size,
            streams=streams,
        )
        if kept.scale == "relative":
            typical = typical_error(reference, ingredients.distilled, captions, streams)
    pairs = PairSource(photos, generic, settings, schedule, streams)
    objective = ProtectionObjective(
        reference, pairs, personal, preservation, settings, typical
    )
    optimizer = adamw(settings.optimizer, settings.betas, settings.weight_decay)
    if files and settings.optimizer == "adamw":
        optimizer = with_mapped_moments(optimizer)
    simulator = Simulator(model, named, generic, settings, streams, files, compile_forward)
    attackers: Crew | None = None
    if settings.attackers.kind == "persistent":
        attackers = simulator.persistent(photos)
    elif settings.steps_inner > 0:
        attackers = simulator.path(photos)
    others = simulator.learners(ingredients.others) if ingredients.others else None
    compile_forward(reference.unet)
    compile_forward(model.unet)
    return LearningToProtect(
        model.denoiser, attackers, reference.unet, objective, optimizer, settings, others
    )


def _embed_each(model: DiffusionModel, captions: tuple[str, ...]) -> Condition:
    """A batch of N; captions that repeat are encoded once."""
    distinct = list(dict.fromkeys(captions))
    place = {caption: index for index, caption in enumerate(distinct)}
    return model.encode_text(distinct).index([place[caption] for caption in captions])
