"""What the contract tests work on: photos that nobody took, and models by their bits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.photos import Photos
from apdm_cli.extension.family import load_model
from apdm_cli.randomness import Streams


class OnPocketModel:
    """A contract that is tried on the embedded model. Override `model` for another one."""

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls) -> DiffusionModel:
        """The model that is attacked, protected or drawn with."""
        return load_model("pocket", torch.device("cpu"))


def synthetic_photos(resolution: int, count: int = 3, seed: int = 0) -> Photos:
    """Smooth random pictures that stand for photos; no file is behind them."""
    generator = Streams(seed).generator("testing/photos")
    coarse = torch.rand(count, 3, 4, 4, generator=generator) * 2 - 1
    pixels = torch.nn.functional.interpolate(coarse, size=(resolution, resolution), mode="bicubic")
    names = tuple(f"{index}.png" for index in range(count))
    return Photos(names, tuple(f"{index:064x}" for index in range(count)), pixels.clamp(-1, 1))


def as_pictures(pixels: Tensor) -> Tensor:
    """Pixels (N, 3, R, R) in [−1, 1] as pictures uint8 (N, R, R, 3)."""
    return ((pixels + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def named_tensors(model: DiffusionModel) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer of every network, as `unet.conv_in.weight`."""
    for part, module in model.networks().items():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            yield f"{part}.{name}", tensor


def model_digest(model: DiffusionModel) -> str:
    """SHA-256 over names and bytes of all tensors: two models are equal bit for bit, or are not."""
    whole = hashlib.sha256()
    for name, tensor in named_tensors(model):
        whole.update(name.encode())
        whole.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return whole.hexdigest()
