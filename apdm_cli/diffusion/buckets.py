"""Aspect buckets: photos are cut to shapes of about one area, and not to squares.

Trainers sort photos by the ratio of their sides. Which shapes there are, and which of them a photo
gets, is as in kohya's sd-scripts (`BucketManager`); other trainers differ in the list of shapes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from apdm_cli.diffusion.latents import LatentDistribution
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.photo_decoding import Crop, cut, decode_picture
from apdm_cli.diffusion.photo_files import mask_files, read_content
from apdm_cli.diffusion.photos import cut_mask
from apdm_cli.errors import UsageError

Size = tuple[int, int]  # (width, height) in pixels


@dataclass(frozen=True)
class PhotoCut:
    """One photo as its bucket has it.

    Attributes:
        pixels: (1, 3, H, W) in [-1, 1].
        mask: (1, 1, H, W), 1 where the subject is and 0 where it is not; None without masks.
        original: height and width of the upright photo, in pixels.
        corner: top and left of what is shown of it, in pixels of the rescaled photo.
    """

    pixels: Tensor
    mask: Tensor | None
    original: tuple[int, int]
    corner: tuple[int, int]

    @property
    def sizes(self) -> list[int]:
        """The six numbers of `Family.told_sizes`."""
        return [*self.original, *self.corner, *self.pixels.shape[-2:]]


def bucket_sizes(resolution: int, step: int) -> list[Size]:
    """The shapes that photos are cut to, in ascending order.

    Sides are multiples of `step` between half of `resolution` and twice that, and every shape is
    the largest of its width, or of its height, whose area is not above that of the square.
    """
    area = resolution**2
    first = -(-resolution // (2 * step)) * step
    found = {(resolution // step * step,) * 2}
    for side in range(first, 2 * resolution + 1, step):
        other = min(2 * resolution, area // side) // step * step
        if other >= first:
            found |= {(side, other), (other, side)}
    return sorted(found)


def bucket_of(size: Size, buckets: Sequence[Size]) -> Size:
    """The one of `buckets` for a photo of `size`: that size, or the nearest ratio of the sides."""
    if size in buckets:
        return size
    ratio = size[0] / size[1]
    return min(buckets, key=lambda bucket: abs(bucket[0] / bucket[1] - ratio))


def buckets_for(model: DiffusionModel, step: int) -> list[Size]:
    """`bucket_sizes` for pictures of `model`.

    Raises:
        UsageError: its denoiser takes no other shapes, or none of such sides.
    """
    needed = model.family.shape_step(model.components)
    if needed is None:
        raise UsageError(
            f"buckets: {model.family.title} takes squares of one size only", "Leave it out."
        )
    if step % needed or model.resolution % step:
        known = [
            multiple
            for multiple in range(needed, model.resolution // 2 + 1, needed)
            if model.resolution % multiple == 0
        ]
        raise UsageError(
            f"buckets={step}: sides of pictures for {model.family.title} have to be multiples of "
            f"{needed} pixels, and one that divides its {model.resolution}",
            f"Use {' or '.join(map(str, known))}." if known else "Leave it out.",
        )
    return bucket_sizes(model.resolution, step)


def load_cuts(
    paths: Sequence[Path],
    buckets: Sequence[Size],
    *,
    crop: Crop = "center",
    places: Mapping[str, float] | None = None,
    masked: bool = False,
) -> list[PhotoCut]:
    """The photos that `load_photos` reads, each cut to its bucket, in the same order.

    Args:
        crop, places: as for `load_photos`.
        masked: cut the masks beside them, too.

    Raises `ApdmError` as `load_photos` and `load_masks`.
    """
    found = []
    for photo, mask in mask_files(paths):
        picture = decode_picture(read_content(photo), photo.name)
        size = bucket_of(picture.size, buckets)
        at = (places or {}).get(photo.sha256, 0.5)
        shown, (left, top) = cut(picture, size, crop, at)
        values = torch.from_numpy(np.asarray(shown).copy()).permute(2, 0, 1)[None]
        found.append(
            PhotoCut(
                values.to(torch.float32) / 127.5 - 1.0,
                cut_mask(mask, picture.size, size, crop, at) if masked else None,
                (picture.height, picture.width),
                (top, left),
            )
        )
    return found


def encode_cuts(model: DiffusionModel, cuts: Sequence[PhotoCut]) -> LatentDistribution:
    """The latents of `cuts`, with masks and sizes; those of one shape are encoded together."""
    found: dict[int, LatentDistribution] = {}
    for shape in dict.fromkeys(one.pixels.shape for one in cuts):
        alike = [index for index, one in enumerate(cuts) if one.pixels.shape == shape]
        latents = model.encode_pixels(torch.cat([cuts[index].pixels for index in alike]))
        masks = [mask for index in alike if (mask := cuts[index].mask) is not None]
        latents = latents.with_masks(torch.cat(masks) if masks else None)
        found |= {index: latents.select([row]) for row, index in enumerate(alike)}
    sizes = torch.tensor([cut.sizes for cut in cuts])
    return LatentDistribution.of_shapes([found[i] for i in range(len(cuts))], sizes)
