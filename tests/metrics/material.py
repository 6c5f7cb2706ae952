"""Random-weight extractors and pictures with something in them, for the tests of metrics."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor


def make_vit(folder: Path, side: int = 32, patch: int = 8, width: int = 32) -> Path:
    """A folder with a random-weight ViTModel; the same arguments write the same weights."""
    from transformers import ViTConfig, ViTModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ViTModel(
            ViTConfig(
                hidden_size=width,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=2 * width,
                image_size=side,
                patch_size=patch,
            ),
            add_pooling_layer=False,
        )
        for parameter in model.parameters():  # initialized, all pictures look the same to it
            parameter.data.add_(0.3 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    return folder


def pictures(count: int, side: int = 32, seed: int = 0) -> Tensor:
    """Smooth random pictures, uint8 (count, side, side, 3)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 5, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic")
    return (smooth.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def noisy(images: Tensor, strength: float) -> Tensor:
    """Pictures with Gaussian noise of that standard deviation (of 255)."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1)) * strength
    return (images.float() + noise).clamp(0, 255).round().to(torch.uint8)


def photograph(side: int = 256) -> Tensor:
    """A real photograph that scikit-image carries, uint8 (1, side, side, 3)."""
    import pytest

    data = pytest.importorskip("skimage.data")
    whole = torch.from_numpy(data.astronaut())[None]
    return whole[:, :side, :side].contiguous()
