"""Vision transformers whose class token stands for a picture: DINO, and the pocket extractor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from apdm_cli.diffusion.pictures import to_pixels
from apdm_cli.digests import file_digest
from apdm_cli.errors import ApdmError
from apdm_cli.scores import Backend

POCKET_VIT = "pocket-vit"
DINO = "facebook/dino-vits16"
BATCH = 32
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Extractor:
    """A network and what it does to a picture first.

    Attributes:
        backend: name and digest, for the scores.
        network: transformers' ViTModel, or anything with its call and output.
        preprocess: uint8 (N, H, W, 3) to the float32 (N, 3, S, S) that the network takes.
    """

    backend: Backend
    network: nn.Module
    preprocess: Callable[[Tensor], Tensor]
    device: torch.device

    @torch.no_grad()
    def features(self, pictures: Tensor) -> Tensor:
        """Class tokens of the last hidden state: uint8 (N, H, W, 3) to float32 (N, D)."""
        # cudnn convolves in TF32 unless told not to: three digits, where scores show four.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            parts = [
                self.network(pixel_values=self.preprocess(part).to(self.device))
                .last_hidden_state[:, 0]
                .float()
                for part in pictures.split(BATCH)
            ]
        return torch.cat(parts)


def pocket_extractor(device: torch.device, folder: Path | None = None) -> Extractor:
    """The embedded extractor, or one of its kind in `folder`; ApdmError where it is missing."""
    folder = folder or Path(__file__).parents[1] / "pocket" / "weights" / "extractor"
    network = load_vit(folder, device)
    side = int(network.config.image_size)
    return Extractor(
        Backend(POCKET_VIT, weights_digest(folder), stand_in=POCKET_VIT),
        network,
        lambda pictures: pocket_preprocess(pictures, side),
        device,
    )


def dino_extractor(device: torch.device, folder: Path) -> Extractor:
    """DINO ViT-S/16 from a folder with config.json and weights."""
    return Extractor(
        Backend("dino-vits16", weights_digest(folder)),
        load_vit(folder, device),
        dino_preprocess,
        device,
    )


def pocket_preprocess(pictures: Tensor, side: int) -> Tensor:
    """As in the extractor's training: [-1, 1], resized only where the size differs."""
    pixels = to_pixels(pictures)
    if pixels.shape[-2:] != (side, side):
        pixels = F.interpolate(pixels, size=(side, side), mode="bilinear", antialias=True)
    return pixels


def dino_preprocess(pictures: Tensor) -> Tensor:
    """Resize 256 bicubic → CenterCrop 224 → ImageNet normalization, as DINO is evaluated.

    Through PIL, as in the published code (Caron et al. 2021, eval_knn.py): its bicubic filter is
    the one that published numbers rest on.
    """
    from torchvision import transforms

    steps = transforms.Compose(
        [
            transforms.Resize(256, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    return torch.stack([steps(Image.fromarray(np.asarray(picture))) for picture in pictures.cpu()])


def load_vit(folder: Path, device: torch.device) -> Any:
    """A transformers ViTModel in float32; ApdmError where `folder` holds none."""
    from transformers import ViTModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    if not (folder / "config.json").is_file() or not weight_files(folder):
        raise ApdmError(
            f"{folder} holds no vision transformer",
            "It needs config.json and model.safetensors, as save_pretrained writes them.",
        )
    try:
        network = ViTModel.from_pretrained(
            folder, local_files_only=True, add_pooling_layer=False, dtype=torch.float32
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ApdmError(f"{folder} cannot be loaded: {str(error).splitlines()[0]}") from error
    return network.eval().requires_grad_(False).to(device)


def weight_files(folder: Path) -> list[Path]:
    """The weights in a transformers folder: safetensors, else pytorch_model.bin."""
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model.bin"))


def weights_digest(folder: Path) -> str:
    """SHA-256 over a folder's weights, 64 hexadecimal digits."""
    return file_digest(weight_files(folder))
