"""What an attacker may do to photos before training on them.

torch and torchvision are imported by what uses them: `apdm attack` checks names without.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from apdm_cli.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from apdm_cli.randomness import Streams

NOISE_STD = 0.1  # of the range [-1, 1]
JPEG_QUALITY = 50
CROP = 0.8  # of the side
MOVING = ("flip", "crop")  # what was somewhere is elsewhere then


def apply_transforms(pixels: Tensor, names: Sequence[str], streams: Streams) -> Tensor:
    """Apply `names` one after another to pixels (N, 3, H, W) in [-1, 1]; same shape and range.

    flip (left to right) · blur (σ = the shorter side / 64) · crop (a random 80 %, enlarged again) ·
    jpeg (quality 50) · noise (σ = 0.1). flip and blur are those of arXiv 2511.01307, the others
    ours.

    Raises:
        UsageError: for an unknown name.
    """
    check_transforms(names)
    for name in names:
        pixels = TRANSFORMS[name](pixels, streams).clamp(-1, 1)
    return pixels


def transformed_masks(masks: Tensor, names: Sequence[str], streams: Streams) -> Tensor:
    """Masks (N, 1, H, W) moved as `apply_transforms` with fresh `streams` moved their photos."""
    for name in names:
        if name in MOVING:
            masks = TRANSFORMS[name](masks, streams).clamp(0, 1)
    return masks


def check_transforms(names: Sequence[str]) -> None:
    """UsageError for a name that is not in `TRANSFORMS`."""
    for name in names:
        if name not in TRANSFORMS:
            raise UsageError(
                f"--transform: there is no {name!r}", f"Known are: {', '.join(TRANSFORMS)}."
            )


def _flip(pixels: Tensor, streams: Streams) -> Tensor:
    return pixels.flip(-1)


def _blur(pixels: Tensor, streams: Streams) -> Tensor:
    from torchvision.transforms.v2 import functional

    sigma = min(pixels.shape[-2:]) / 64
    return functional.gaussian_blur(pixels, [2 * round(3 * sigma) + 1] * 2, [sigma, sigma])


def _crop(pixels: Tensor, streams: Streams) -> Tensor:
    import torch
    from torchvision.transforms.v2 import functional

    whole = list(pixels.shape[-2:])
    kept = [round(CROP * side) for side in whole]
    generator = streams.generator("transform/crop")
    parts = []
    for picture in pixels:
        top, left = (
            int(torch.randint(side - part + 1, (), generator=generator))
            for side, part in zip(whole, kept, strict=True)
        )
        parts.append(picture[:, top : top + kept[0], left : left + kept[1]])
    return functional.resize(torch.stack(parts), whole, antialias=True)


def _jpeg(pixels: Tensor, streams: Streams) -> Tensor:
    import numpy as np
    import torch
    from PIL import Image

    rows = []
    for picture in ((pixels + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1):
        file = io.BytesIO()  # photos are never written to a disk
        Image.fromarray(picture.numpy()).save(file, format="JPEG", quality=JPEG_QUALITY)
        rows.append(torch.from_numpy(np.array(Image.open(file))))
    return torch.stack(rows).permute(0, 3, 1, 2).float() / 127.5 - 1


def _noise(pixels: Tensor, streams: Streams) -> Tensor:
    import torch

    noise = torch.randn(pixels.shape, generator=streams.generator("transform/noise"))
    return pixels + NOISE_STD * noise


TRANSFORMS: dict[str, Callable[[Tensor, Streams], Tensor]] = {
    "flip": _flip,
    "blur": _blur,
    "crop": _crop,
    "jpeg": _jpeg,
    "noise": _noise,
}
