"""Draw pictures: one seed, one picture, whatever the batch, but for rounding.

In a batch of another size some processors round matrix products otherwise; seen were differences of
one shade in one value of a picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from pydantic import Field
from torch import Tensor

from apdm_cli.config import Settings
from apdm_cli.diffusion.family import Drawing, check_sampler
from apdm_cli.diffusion.halved import components_to_draw_with
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.pictures import from_unit
from apdm_cli.errors import ApdmError
from apdm_cli.randomness import Streams

_BROKEN_HINT = (
    "Half precision is too narrow for some autoencoders: try --dtype fp32 or bf16. Otherwise the "
    "model is damaged."
)


class SamplerSettings(Settings):
    """How pictures are drawn. The published protocol is PNDM, 20 steps, guidance 7.5."""

    sampler: str = "pndm"
    steps: int = Field(20, ge=1, le=10_000)
    guidance: float = Field(7.5, ge=0, le=1_000)
    batch_size: int = Field(8, ge=1)


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
    components = components_to_draw_with(model)
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
            latents = model.family.sample(components, drawing).float()
        # Outside: autocast is the thread's, and would stay on in whoever takes the latents.
        yield latents


def sample(
    model: DiffusionModel,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: SamplerSettings,
    *,
    strict: bool = False,
) -> Iterator[Tensor]:
    """Like `sample_latents`, decoded: yields uint8 pictures (B, R, R, 3).

    Args:
        strict: refuse pictures that show nothing. An attacked model may draw such and be judged by
            it; a model that draws them of its own accord is broken, and nothing is trained on them.

    Raises:
        ApdmError: with `strict`, numbers that are not finite, or a picture of one colour.
    """
    for latents in sample_latents(model, prompts, seeds, settings):
        pictures = model.decode(latents)
        if strict:
            require_finite(latents, "the sampler draws latents")
            require_finite(pictures, "the autoencoder draws pictures")
        drawn = from_unit(pictures)
        if strict:
            require_content(drawn)
        yield drawn


def require_finite(values: Tensor, who: str) -> None:
    """Refuse NaN and infinities: nothing that is learned from them means anything."""
    if not torch.isfinite(values).all():
        raise ApdmError(f"{who} that are not finite (NaN or infinite)", _BROKEN_HINT)


def require_content(pictures: Tensor) -> None:
    """Refuse uint8 pictures (N, H, W, 3) of which one has a single colour."""
    flat = pictures.flatten(1, 2)
    if (flat.amin(1) == flat.amax(1)).all(1).any():
        raise ApdmError("the autoencoder draws pictures of a single colour", _BROKEN_HINT)
