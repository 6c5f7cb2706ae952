"""Latents as distributions: the autoencoder's posterior, sampled anew every time it is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from apdm_cli.devices import sent


@dataclass(frozen=True)
class LatentDistribution:
    """A diagonal Gaussian over scaled latents, one per picture.

    Attributes:
        mean: shape (N, C, H, W), already multiplied by the autoencoder's scaling factor.
        std: shape (N, C, H, W), same scale; zero for latents that the model itself generated.
        captions: of each picture, empty where it has none; no entries where nobody has any.
        masks: shape (N, 1, H, W), from 1 where the subject is to 0; None where nobody has any.
    """

    mean: Tensor
    std: Tensor
    captions: tuple[str, ...] = ()
    masks: Tensor | None = None

    def __len__(self) -> int:
        return self.mean.shape[0]

    def sample(self, indices: Tensor, generator: torch.Generator) -> Tensor:
        """Draw latents of the pictures `indices` (B,); returns (B, C, H, W).

        The draw happens on the CPU, so that one seed gives one result on every device.
        """
        indices = sent(indices, self.mean.device)
        mean, std = self.mean[indices], self.std[indices]
        noise = sent(torch.randn(mean.shape, generator=generator), mean.device).to(mean.dtype)
        return mean + std * noise

    def select(self, indices: Sequence[int]) -> LatentDistribution:
        """The pictures `indices` only, in that order."""
        chosen = list(indices)
        captions = tuple(self.captions[index] for index in chosen) if self.captions else ()
        masks = None if self.masks is None else self.masks[chosen]
        return LatentDistribution(self.mean[chosen], self.std[chosen], captions, masks)

    def with_masks(self, masks: Tensor | None) -> LatentDistribution:
        """With masks (N, 1, R, R) of the pictures, averaged over the area of every latent."""
        if masks is not None:
            size = self.mean.shape[-2:]
            masks = sent(
                torch.nn.functional.interpolate(masks, size, mode="area"), self.mean.device
            )
        return replace(self, masks=masks)

    def split_off(self, count: int) -> tuple[LatentDistribution, LatentDistribution]:
        """(the first `count` pictures, the others); one picture always stays with the others."""
        count = min(count, len(self) - 1)
        return self.select(range(count)), self.select(range(count, len(self)))

    @classmethod
    def cat(cls, parts: Sequence[LatentDistribution]) -> LatentDistribution:
        """The pictures of all `parts`, in their order; of a single part itself.

        No captions, no masks.
        """
        if len(parts) == 1:
            return parts[0]
        means, stds = zip(*((part.mean, part.std) for part in parts), strict=True)
        return cls(torch.cat(means), torch.cat(stds))

    @classmethod
    def exact(cls, latents: Tensor) -> LatentDistribution:
        """Wrap latents (N, C, H, W) that are known exactly."""
        return cls(latents, torch.zeros_like(latents))
