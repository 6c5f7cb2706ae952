"""Pictures that a model makes of a class, kept on disk: many runs and attacks share them."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.sampling import SamplerSettings, sample, sample_latents
from apdm_cli.runs.atomic import write_bytes_atomic, writing_to
from apdm_cli.runs.manifest import write_json_atomic

SEEDS_PER_SET = 1_000_000
CHUNK = 64  # latents per file


def class_pictures(
    model: DiffusionModel,
    prompt: str,
    count: int,
    settings: SamplerSettings,
    cache: Path,
    seed: int = 0,
    *,
    drawn: Callable[[int], None] | None = None,
) -> Tensor:
    """`count` pictures of `prompt` drawn by `model`: uint8 (count, R, R, 3).

    Kept as PNG files under `cache`, keyed by model digest, prompt, sampler and seed; picture i
    always has seed `seed · 1 000 000 + i`, so that a larger request only adds to a smaller one.

    Args:
        drawn: called with the number of pictures that were just drawn or found.
    """
    folder = cache / "class-pictures" / _key(model, prompt, settings, seed)
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    about = folder / "about.json"
    if not about.is_file():
        sampler = settings.model_dump(exclude={"batch_size"})
        write_json_atomic(about, {"model": model.ref.digest, "prompt": prompt, "sampler": sampler})
    files = [folder / f"{i:05d}.png" for i in range(count)]
    found = {i: picture for i, file in enumerate(files) if (picture := _read_png(file)) is not None}
    missing = [i for i in range(count) if i not in found]
    _tell(drawn, len(found))
    seeds = [seed * SEEDS_PER_SET + i for i in missing]
    new = iter(missing)
    for batch in sample(model, [prompt] * len(missing), seeds, settings):
        for picture in batch:
            index = next(new)
            write_bytes_atomic(files[index], _png(picture))
            found[index] = picture
        _tell(drawn, len(batch))
    return torch.stack([found[i] for i in range(count)])


def generated_latents(
    model: DiffusionModel,
    prompts: Sequence[str],
    settings: SamplerSettings,
    cache: Path,
    seed: int = 0,
    *,
    drawn: Callable[[int], None] | None = None,
) -> Tensor:
    """Scaled latents (N, C, H, W) that `model` draws for `prompts`, one each, never decoded.

    Kept as safetensors under `cache`, like `class_pictures`. Only for prompts: latents made from
    photos are photos, and are never written.
    """
    folder = cache / "latents"
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for start in range(0, len(prompts), CHUNK):
        chunk = list(prompts[start : start + CHUNK])
        file = folder / f"{_key(model, json.dumps([start, chunk]), settings, seed)}.safetensors"
        latents = _read_latents(file)
        if latents is None:
            seeds = [seed * SEEDS_PER_SET + start + i for i in range(len(chunk))]
            batches = _telling(sample_latents(model, chunk, seeds, settings), drawn)
            latents = torch.cat([batch.cpu() for batch in batches]).contiguous()
            write_bytes_atomic(file, save({"latents": latents}))
        else:
            _tell(drawn, len(chunk))
        parts.append(latents.to(model.device))
    return torch.cat(parts)


def _key(model: DiffusionModel, prompt: str, settings: SamplerSettings, seed: int) -> str:
    # The batch size does not enter: a picture depends on its own seed only.
    sampler = settings.model_dump(exclude={"batch_size"})
    text = json.dumps([model.ref.digest, prompt, sampler, seed], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _png(picture: Tensor) -> bytes:
    content = io.BytesIO()
    Image.fromarray(picture.numpy()).save(content, format="PNG")
    return content.getvalue()


def _read_png(file: Path) -> Tensor | None:
    """The picture, or None where it is missing or damaged: it is drawn again then."""
    try:
        with Image.open(file) as picture:
            return torch.from_numpy(np.array(picture.convert("RGB")))
    except (OSError, SyntaxError, ValueError):
        return None


def _read_latents(file: Path) -> Tensor | None:
    try:
        return load_file(file)["latents"].clone()
    except (OSError, SafetensorError, KeyError):
        return None


def _telling(batches: Iterator[Tensor], drawn: Callable[[int], None] | None) -> Iterator[Tensor]:
    for batch in batches:
        _tell(drawn, len(batch))
        yield batch


def _tell(drawn: Callable[[int], None] | None, count: int) -> None:
    if drawn is not None and count:
        drawn(count)
