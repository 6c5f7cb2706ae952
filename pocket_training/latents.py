"""Stage: all training pictures once through the finished autoencoder and extractor."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pocket_training import autoencoder, extractor
from pocket_training.parallel import Team, run_team
from pocket_training.pictures import to_tensor
from pocket_training.workshop import Workshop

BATCH = 64  # on the CPU; a GPU takes more at once
BATCH_ON_GPU = 1024
LATENTS, FEATURES = "latents.npy", "features.npy"


def _blank(shop: Workshop, name: str, shape: tuple[int, ...]) -> None:
    np.lib.format.open_memmap(shop.path(name + ".partial"), "w+", np.float16, shape).flush()


@torch.no_grad()
def _work(team: Team, shop: Workshop) -> None:
    table = np.load(shop.path("pictures.npy"), mmap_mode="r")
    moments = np.load(shop.path(LATENTS + ".partial"), mmap_mode="r+")
    found = np.load(shop.path(FEATURES + ".partial"), mmap_mode="r+")
    encoder = autoencoder.trained(shop).to(shop.device)
    vit = extractor.trained(shop).to(shop.device)
    batch = BATCH if shop.device == "cpu" else BATCH_ON_GPU
    for start in range(team.rank * batch, len(table), batch * team.workers):
        rows = slice(start, start + batch)
        pictures = to_tensor(table[rows]).to(shop.device)
        posterior = encoder.encode(pictures).latent_dist
        moments[rows] = torch.stack([posterior.mean, posterior.std], 1).half().cpu().numpy()
        found[rows] = extractor.features(vit, pictures).half().cpu().numpy()
    moments.flush()
    found.flush()


def make(shop: Workshop) -> dict[str, Any]:
    """Writes `latents.npy`, fp16 (pictures, 2, channels, 8, 8), mean and standard deviation of

    each posterior, and `features.npy`, fp16 (pictures, width). The result has the scaling factor:
    one over the standard deviation of all latents, as in Rombach et al. 2022, appendix G.
    """
    pictures = len(np.load(shop.path("pictures.npy"), mmap_mode="r"))
    _blank(shop, LATENTS, (pictures, 2, shop.plan.latent_channels, 8, 8))
    _blank(shop, FEATURES, (pictures, shop.plan.extractor_width))
    run_team(_work, shop.workers, 0, shop)
    for name in (LATENTS, FEATURES):
        os.replace(shop.path(name + ".partial"), shop.path(name))
    moments = np.load(shop.path(LATENTS), mmap_mode="r")
    means = torch.from_numpy(np.asarray(moments[:, 0], dtype=np.float32))
    noise = torch.from_numpy(np.asarray(moments[:, 1], dtype=np.float32)).square().mean()
    spread = float((means.var() + noise).sqrt())
    return {
        "scaling_factor": round(1 / spread, 5),
        "posterior_std": round(float(noise.sqrt()) / spread, 4),
        "channel_std": [round(float(c.std()) / spread, 3) for c in means.transpose(0, 1)],
    }


def table(shop: Workshop, name: str) -> Tensor:
    """`latents.npy` or `features.npy`: in the GPU's memory, or mapped."""
    mapped = np.load(shop.path(name), mmap_mode="c" if shop.device == "cpu" else None)
    return torch.from_numpy(mapped).to(shop.device)


def sample(moments: Tensor, rows: Tensor, noise: Tensor, scaling_factor: float) -> Tensor:
    """Scaled latents (n, channels, 8, 8) of the given rows of `latents.npy`."""
    chosen = moments[rows].float()
    return (chosen[:, 0] + chosen[:, 1] * noise) * scaling_factor
