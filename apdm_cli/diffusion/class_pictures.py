"""Pictures that a model makes of a class, kept on disk: many runs and attacks share them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.sampling import SamplerSettings, sample, sample_latents
from apdm_cli.runs.manifest import write_json_atomic

SEEDS_PER_SET = 1_000_000
CHUNK = 64


def class_pictures(
    model: DiffusionModel,
    prompt: str,
    count: int,
    settings: SamplerSettings,
    cache: Path,
    seed: int = 0,
) -> Tensor:
    """`count` pictures of `prompt` drawn by `model`: uint8 (count, R, R, 3).

    Kept as PNG files under `cache`, keyed by model digest, prompt, sampler and seed; picture i
    always has seed `seed · 1 000 000 + i`, so that a larger request only adds to a smaller one.
    """
    folder = cache / "class-pictures" / _key(model, prompt, settings, seed)
    folder.mkdir(parents=True, exist_ok=True)
    write_json_atomic(
        folder / "about.json",
        {"model": model.ref.digest, "prompt": prompt, "sampler": settings.model_dump()},
    )
    missing = [i for i in range(count) if not (folder / f"{i:05d}.png").is_file()]
    seeds = [seed * SEEDS_PER_SET + i for i in missing]
    done = 0
    for batch in sample(model, [prompt] * len(missing), seeds, settings):
        for picture in batch:
            _save_png(picture, folder / f"{missing[done]:05d}.png")
            done += 1
    files = [folder / f"{i:05d}.png" for i in range(count)]
    return torch.stack([torch.from_numpy(np.array(Image.open(file))) for file in files])


def generated_latents(
    model: DiffusionModel,
    prompts: Sequence[str],
    settings: SamplerSettings,
    cache: Path,
    seed: int = 0,
) -> Tensor:
    """Scaled latents (N, C, H, W) that `model` draws for `prompts`, one each, never decoded.

    Kept as safetensors under `cache`, like `class_pictures`. Only for prompts: latents made from
    photos are photos, and are never written.
    """
    folder = cache / "latents"
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for start in range(0, len(prompts), CHUNK):
        chunk = list(prompts[start : start + CHUNK])
        file = folder / f"{_key(model, json.dumps([start, chunk]), settings, seed)}.safetensors"
        if not file.is_file():
            seeds = [seed * SEEDS_PER_SET + start + i for i in range(len(chunk))]
            latents = torch.cat(list(sample_latents(model, chunk, seeds, settings)))
            temporary = file.with_suffix(f".{os.getpid()}.partial")
            save_file({"latents": latents.cpu().contiguous()}, temporary)
            os.replace(temporary, file)
        parts.append(load_file(file)["latents"].to(model.device))
    return torch.cat(parts)


def _key(model: DiffusionModel, prompt: str, settings: SamplerSettings, seed: int) -> str:
    # The batch size does not enter: a picture depends on its own seed only.
    sampler = settings.model_dump(exclude={"batch_size"})
    text = json.dumps([model.ref.digest, prompt, sampler, seed], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _save_png(picture: Tensor, file: Path) -> None:
    temporary = file.with_suffix(f".{os.getpid()}.partial")
    Image.fromarray(picture.numpy()).save(temporary, format="PNG")
    os.replace(temporary, file)
