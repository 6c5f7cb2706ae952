"""Pictures as uint8 arrays, in and out of files and tensors."""

from __future__ import annotations

import io
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


def png_bytes(picture: Tensor) -> bytes:
    """One uint8 picture (H, W, 3) as a PNG file."""
    content = io.BytesIO()
    Image.fromarray(picture.numpy()).save(content, format="PNG")
    return content.getvalue()


def read_png(file: Path) -> Tensor | None:
    """The picture in a file, uint8 (H, W, 3); None where it is missing or damaged."""
    try:
        with Image.open(file, formats=("PNG",)) as picture:
            return torch.from_numpy(np.array(picture.convert("RGB")))
    except (OSError, SyntaxError, ValueError):
        return None
