"""The objective of a personalization: DreamBooth's, on whatever a `Trainable` trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

from torch import Tensor

from apdm_cli.diffusion.condition import Condition
from apdm_cli.diffusion.latents import LatentDistribution
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.personalization.captions import PhotoCaptions, spoken
from apdm_cli.personalization.dreambooth import DreamBoothLoss, PictureSource
from apdm_cli.personalization.noise import Noise
from apdm_cli.personalization.settings import AttackConfig
from apdm_cli.personalization.trainable import Trainable
from apdm_cli.randomness import Streams
from apdm_cli.subject import Subject


def personalization_loss(
    trainable: Trainable,
    config: AttackConfig,
    model: DiffusionModel,
    subject: Subject,
    photos: LatentDistribution,
    prior: LatentDistribution | None,
    streams: Streams,
    label: str,
    *,
    one_forward: bool = True,
) -> Callable[[], Tensor]:
    """DreamBooth's loss (arXiv 2208.12242, eq. 2); calling it draws a batch.

    Args:
        trainable: says what stands for the subject, and embeds the prompts.
        model: whose denoiser trains.
        photos: latents of the subject's photos.
        prior: latents of class pictures, or None without prior preservation.
        streams, label: batches are drawn from the streams "<label>/photos/..." and
            "<label>/class/...".
        one_forward: run photos and class pictures as one batch.
    """
    denoiser = model.denoiser
    process = denoiser.process.redrawn(config.timesteps, config.timestep_shift)
    noise = Noise(config.noise_offset, config.multires_noise, config.multires_iterations)
    drawing = (process, config.timestep_range, noise)
    named = replace(subject, identifier=trainable.prompt_word())
    return DreamBoothLoss(
        denoiser,
        PictureSource(photos, streams, f"{label}/photos", *drawing),
        None if prior is None else PictureSource(prior, streams, f"{label}/class", *drawing),
        _condition(trainable, named.personal_prompt),
        _condition(trainable, named.class_prompt),
        config.batch_size,
        config.prior_weight,
        config.min_snr_gamma,
        one_forward,
        config.huber,
        _captions(trainable, config, named, photos, streams, label),
        _masks(config, photos),
        _told(model, photos),
    )


def _masks(config: AttackConfig, photos: LatentDistribution) -> Tensor | None:
    """Weights of the error, as in OneTrainer; with `unmasked_weight` 0 those of kohya."""
    if not config.masks or photos.masks is None:
        return None
    return photos.masks.clamp(min=config.unmasked_weight)


def _told(
    model: DiffusionModel, photos: LatentDistribution
) -> Callable[[Condition, Tensor], Condition] | None:
    sizes = photos.sizes
    if sizes is None:
        return None
    return lambda condition, indices: model.family.told_sizes(condition, sizes[indices])


def _captions(
    trainable: Trainable,
    config: AttackConfig,
    named: Subject,
    photos: LatentDistribution,
    streams: Streams,
    label: str,
) -> PhotoCaptions | None:
    """None where all photos are called alike, always."""
    prompts = [named.personal_prompt]
    if config.captions and photos.captions:
        prompts = [
            spoken(caption, named.personal_prompt, named.identifier) for caption in photos.captions
        ]
    if prompts == [named.personal_prompt] and config.caption_dropout == 0:
        return None
    condition = trainable.condition
    if not trainable.trains_text:
        condition = cache(lambda prompt: trainable.condition(prompt).detach())
    generator = streams.generator(f"{label}/captions")
    return PhotoCaptions(condition, prompts, config.caption_dropout, generator)


def _condition(trainable: Trainable, prompt: str) -> Callable[[], Condition]:
    if trainable.trains_text:
        return lambda: trainable.condition(prompt)
    constant = trainable.condition(prompt).detach()
    return lambda: constant
