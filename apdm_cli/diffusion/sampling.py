"""Draw pictures: one seed, one picture, whatever the batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from apdm_cli.config import Settings
from apdm_cli.diffusion.family import Drawing, Family
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.pictures import from_unit
from apdm_cli.errors import UsageError
from apdm_cli.randomness import Streams


class SamplerSettings(Settings):
    """How pictures are drawn. The published protocol is PNDM, 20 steps, guidance 7.5."""

    sampler: str = "pndm"
    steps: int = 20
    guidance: float = 7.5
    batch_size: int = 8


def check_sampler(family: Family, name: str) -> str:
    """`name`; UsageError where models of the family cannot be drawn with it."""
    if name not in family.samplers:
        raise UsageError(
            f"{family.title} has no sampler {name!r}", f"It has {', '.join(family.samplers)}."
        )
    return name


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

    Raises:
        UsageError: the model's family does not have the sampler.
    """
    check_sampler(model.family, settings.sampler)
    model.trained.eval()
    mixed = model.dtype != torch.float32
    for start in range(0, len(prompts), settings.batch_size):
        chosen = slice(start, start + settings.batch_size)
        drawing = Drawing(
            list(prompts[chosen]),
            initial_latents(model, seeds[chosen]).to(model.device),
            settings.sampler,
            settings.steps,
            settings.guidance,
        )
        with torch.autocast(model.device.type, dtype=model.dtype, enabled=mixed):
            yield model.family.sample(model.components, drawing).float()


def sample(
    model: DiffusionModel,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: SamplerSettings,
) -> Iterator[Tensor]:
    """Like `sample_latents`, decoded: yields uint8 pictures (B, R, R, 3)."""
    for latents in sample_latents(model, prompts, seeds, settings):
        yield from_unit(model.decode(latents))
