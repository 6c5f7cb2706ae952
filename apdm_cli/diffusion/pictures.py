"""Pictures as uint8 arrays, in and out of files and tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_pixels(pictures: Tensor) -> Tensor:
    """uint8 (N, H, W, 3) in [0, 255] to float32 (N, 3, H, W) in [-1, 1]."""
    return pictures.permute(0, 3, 1, 2).float() / 127.5 - 1


def from_unit(pictures: Tensor) -> Tensor:
    """float (N, 3, H, W) in [0, 1] to uint8 (N, H, W, 3); NaN becomes black."""
    scaled = torch.nan_to_num(pictures.float()).clamp(0, 1) * 255
    return scaled.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().contiguous()


def write_pictures(folder: Path, pictures: Tensor, start: int = 0) -> None:
    """Write uint8 pictures (N, H, W, 3) as `0000.png`, `0001.png`, ... into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, picture in enumerate(pictures, start):
        Image.fromarray(picture.numpy()).save(folder / f"{index:04d}.png")


def read_pictures(folder: Path) -> Tensor:
    """Read what `write_pictures` wrote: uint8 (N, H, W, 3), in order of their names."""
    files = sorted(folder.glob("*.png"))
    return torch.stack([torch.from_numpy(np.array(Image.open(f).convert("RGB"))) for f in files])
