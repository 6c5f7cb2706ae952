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
        shapes: (H, W) of each picture, where not all have the same: then a batch is of one shape,
            and H and W above are the largest, with zeros beyond a picture's own. Empty otherwise.
        sizes: how each picture was cut, (N, 6); see `Family.told_sizes`. None for whole pictures.
    """

    mean: Tensor
    std: Tensor
    captions: tuple[str, ...] = ()
    masks: Tensor | None = None
    shapes: tuple[tuple[int, int], ...] = ()
    sizes: Tensor | None = None

    def __len__(self) -> int:
        return self.mean.shape[0]

    def choose(self, count: int, generator: torch.Generator) -> Tensor:
        """Indices (B,) of `count` pictures, with replacement, all of the first one's shape.

        Every picture is as likely as any other, whatever its shape.
        """
        if len(set(self.shapes)) <= 1:
            return torch.randint(len(self), (count,), generator=generator)
        first = int(torch.randint(len(self), (1,), generator=generator))
        alike = [i for i, shape in enumerate(self.shapes) if shape == self.shapes[first]]
        others = torch.randint(len(alike), (count - 1,), generator=generator)
        return torch.tensor([first, *(alike[other] for other in others.tolist())])

    def sample(self, indices: Tensor, generator: torch.Generator) -> Tensor:
        """Draw latents of the pictures `indices` (B,); returns (B, C, H, W).

        The draw happens on the CPU, so that one seed gives one result on every device.
        """
        where = sent(indices, self.mean.device)
        mean, std = (self._in_shape(each[where], indices) for each in (self.mean, self.std))
        noise = sent(torch.randn(mean.shape, generator=generator), mean.device).to(mean.dtype)
        return mean + std * noise

    def of(self, each: Tensor, indices: Tensor) -> Tensor:
        """What a batch of the pictures `indices` (B,) has of `each` (N, ?, H, W): (B, ?, H, W).

        Raises:
            ValueError: pictures of different shapes.
        """
        return self._in_shape(each[sent(indices, each.device)], indices)

    def _in_shape(self, chosen: Tensor, indices: Tensor) -> Tensor:
        """The rows (B, ?, H, W) of the pictures `indices` without what is beyond their shape."""
        shapes = {self.shapes[index] for index in indices.tolist()} if self.shapes else set()
        if len(shapes) > 1:
            raise ValueError(f"a batch is of one shape, and these pictures have {sorted(shapes)}")
        for height, width in shapes:
            chosen = chosen[..., :height, :width]
        return chosen

    def select(self, indices: Sequence[int]) -> LatentDistribution:
        """The pictures `indices` only, in that order."""
        chosen = list(indices)
        return LatentDistribution(
            self.mean[chosen],
            self.std[chosen],
            tuple(self.captions[index] for index in chosen) if self.captions else (),
            None if self.masks is None else self.masks[chosen],
            tuple(self.shapes[index] for index in chosen) if self.shapes else (),
            None if self.sizes is None else self.sizes[chosen],
        )

    def clone(self) -> LatentDistribution:
        """The same in tensors of its own."""
        masks = None if self.masks is None else self.masks.clone()
        return replace(self, mean=self.mean.clone(), std=self.std.clone(), masks=masks)

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
    def of_shapes(cls, pictures: Sequence[LatentDistribution], sizes: Tensor) -> LatentDistribution:
        """N `pictures`, each alone and of a shape of its own, as one; no captions."""
        masks = [one.masks for one in pictures if one.masks is not None]
        return cls(
            _padded([one.mean for one in pictures]),
            _padded([one.std for one in pictures]),
            masks=_padded(masks) if masks else None,
            shapes=tuple((one.mean.shape[-2], one.mean.shape[-1]) for one in pictures),
            sizes=sizes,
        )

    @classmethod
    def exact(cls, latents: Tensor) -> LatentDistribution:
        """Wrap latents (N, C, H, W) that are known exactly."""
        return cls(latents, torch.zeros_like(latents))


def _padded(pictures: Sequence[Tensor]) -> Tensor:
    """(N, C, H, W) of N tensors (1, C, h, w), with zeros below and to the right."""
    height, width = (max(one.shape[axis] for one in pictures) for axis in (-2, -1))
    return torch.cat(
        [
            torch.nn.functional.pad(one, (0, width - one.shape[-1], 0, height - one.shape[-2]))
            for one in pictures
        ]
    )
