"""Draw pictures with diffusers' own pipeline: one seed, one picture, whatever the batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, PNDMScheduler
from torch import Tensor

from apdm_cli.config import Settings
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.pictures import from_unit
from apdm_cli.randomness import Streams

SamplerName = Literal["ddim", "pndm", "dpmsolver++"]

SAMPLERS = {
    "ddim": DDIMScheduler,
    "pndm": PNDMScheduler,
    "dpmsolver++": DPMSolverMultistepScheduler,
}
# Every Stable Diffusion checkpoint skips PNDM's Runge-Kutta steps, but one whose own scheduler is
# another (as a folder's may be) does not say so.
DEFAULTS = {"pndm": {"skip_prk_steps": True}}


class SamplerSettings(Settings):
    """How pictures are drawn. The published protocol is PNDM, 20 steps, guidance 7.5."""

    sampler: SamplerName = "pndm"
    steps: int = 20
    guidance: float = 7.5
    batch_size: int = 8


# Pixels in one batch: 64 pocket pictures, or one of 512² on a CPU and 16 on a graphics card.
PIXELS_CPU, PIXELS_CUDA = 2**18, 2**22


def fitting_batch(model: DiffusionModel) -> int:
    """Pictures of `model` that are drawn at once, by their size and the device."""
    budget = PIXELS_CUDA if model.device.type == "cuda" else PIXELS_CPU
    return max(1, min(64, budget // model.resolution**2))


def initial_latents(model: DiffusionModel, seeds: Sequence[int]) -> Tensor:
    """Starting noise (N, C, H, W), one CPU generator per seed, so that batches do not matter."""
    return torch.stack(
        [
            torch.randn(model.latent_shape, generator=Streams(seed).generator("sampling"))
            for seed in seeds
        ]
    )


@torch.no_grad()
def sample_latents(
    model: DiffusionModel,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: SamplerSettings,
) -> Iterator[Tensor]:
    """Draw one picture's scaled latents per (prompt, seed); yields batches (B, C, H, W).

    Args:
        prompts, seeds: of equal length N; the i-th picture depends on the i-th pair only.
    """
    pipeline = model.pipeline
    config = {**DEFAULTS.get(settings.sampler, {}), **model.schedule.config}
    pipeline.scheduler = SAMPLERS[settings.sampler].from_config(config)
    pipeline.unet.eval()
    mixed = model.dtype != torch.float32
    for start in range(0, len(prompts), settings.batch_size):
        chosen = slice(start, start + settings.batch_size)
        with torch.autocast(model.device.type, dtype=model.dtype, enabled=mixed):
            yield pipeline(
                list(prompts[chosen]),
                height=model.resolution,
                width=model.resolution,
                num_inference_steps=settings.steps,
                guidance_scale=settings.guidance,
                latents=initial_latents(model, seeds[chosen]).to(model.device),
                output_type="latent",
            ).images.float()


def sample(
    model: DiffusionModel,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: SamplerSettings,
) -> Iterator[Tensor]:
    """Like `sample_latents`, decoded: yields uint8 pictures (B, R, R, 3)."""
    for latents in sample_latents(model, prompts, seeds, settings):
        yield from_unit(model.decode(latents))
