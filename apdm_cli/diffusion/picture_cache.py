"""Pictures and latents that a model draws from (prompt, seed, sampler), kept on disk.

One cache for class pictures, galleries and distillation latents: what lies there already is read
back, and what is missing or damaged is drawn again and written as it comes, so that an interrupted
command goes on where it stopped. Nothing made from photos belongs here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from apdm_cli.diffusion.eight_bits import eight_bit_layers
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.pictures import png_bytes, read_png
from apdm_cli.diffusion.sampling import (
    SamplerSettings,
    require_content,
    require_finite,
    sample,
    sample_latents,
)
from apdm_cli.errors import ApdmError
from apdm_cli.runs.atomic import remove_leftovers, write_bytes_atomic, writing_to
from apdm_cli.runs.jsonable import canonical_json, jsonable
from apdm_cli.runs.manifest import read_json, write_json_atomic
from apdm_cli.runs.precision import in_key, name_of

ABOUT = "about.json"
SEEDS_PER_SET = 1_000_000
CHUNK = 64  # latents per file
Told = Callable[[int], None]


@dataclass(frozen=True)
class Order:
    """Which pictures to draw: picture i from prompt i and seed i.

    Attributes:
        origin: what draws them (digest of the model, name of the cell), for the cache.
        prompts, seeds: of equal length N.
        sampler: its batch size changes no picture.
        dtype: in which they are drawn.
    """

    origin: Mapping[str, Any]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    sampler: SamplerSettings
    dtype: torch.dtype = torch.float32

    @property
    def description(self) -> dict[str, Any]:
        """Everything that the pictures depend on."""
        return {
            "origin": jsonable(self.origin),
            "prompts": list(self.prompts),
            "seeds": list(self.seeds),
            "sampler": _described(self.sampler),
            **in_key(self.dtype),
        }

    @property
    def key(self) -> str:
        """12 hexadecimal digits that name them."""
        return hashlib.sha256(canonical_json(self.description).encode()).hexdigest()[:12]


def gallery(
    order: Order,
    folder: Path,
    model: Callable[[], DiffusionModel],
    told: Told | None = None,
    *,
    keyed: bool = False,
) -> Tensor:
    """The pictures of `order`, from `folder` or drawn into it: uint8 (N, R, R, 3).

    Args:
        model: called only if a picture is missing.
        told: how many pictures became available.
        keyed: whether the folder's name holds `order.key`, so that several processes may fill it
            and nothing in it is ever out of date. In any other folder the pictures of another
            order, or of one that cannot be told any more, are removed first.
    """
    make_ready(order, folder, keyed=keyed)
    files = picture_files(order, folder)
    return _pictures(files, order.prompts, order.seeds, order.sampler, model, told)


def make_ready(order: Order, folder: Path, *, keyed: bool) -> None:
    """Make `folder` for the pictures of `order`, as `gallery` does.

    Nobody else may draw into it meanwhile, unless it is `keyed`.
    """
    _prepare(folder, order.description, keyed=keyed)


def picture_files(order: Order, folder: Path) -> list[Path]:
    """Where `gallery` keeps the pictures of `order`."""
    return [folder / f"{index:04d}.png" for index in range(len(order.prompts))]


def is_kept(order: Order, folder: Path) -> bool:
    """Whether the pictures in `folder` are those of `order`, as far as they are drawn."""
    return _about(folder / ABOUT) == order.description


def missing(order: Order, folder: Path) -> int:
    """How many pictures of `order` `gallery` would draw into `folder`; nothing is changed."""
    if not is_kept(order, folder):
        return len(order.prompts)
    files = (folder / f"{index:04d}.png" for index in range(len(order.prompts)))
    return sum(read_png(file) is None for file in files)


def class_pictures(
    model: DiffusionModel,
    prompt: str,
    count: int,
    settings: SamplerSettings,
    cache: Path,
    seed: int = 0,
    *,
    drawn: Told | None = None,
) -> Tensor:
    """`count` pictures of `prompt` drawn by `model`: uint8 (count, R, R, 3).

    Kept under `cache`, keyed by the model's digest and how it is held, prompt, sampler and seed;
    picture i always has seed `seed · 1 000 000 + i`, so that a larger request only adds to a
    smaller one.

    Args:
        drawn: called with the number of pictures that were just drawn or found.
    """
    folder = cache / "class-pictures" / _key(model, prompt, settings, seed)
    about = {"model": model.ref.digest, "prompt": prompt, "sampler": _described(settings)}
    about |= _held(model)
    _prepare(folder, about, keyed=True)
    files = [folder / f"{index:05d}.png" for index in range(count)]
    seeds = [seed * SEEDS_PER_SET + index for index in range(count)]
    pictures = _pictures(
        files, [prompt] * count, seeds, settings, lambda: model, drawn, strict=True
    )
    require_content(pictures)  # also of what an earlier version kept
    return pictures


def generated_latents(
    model: DiffusionModel,
    prompts: Sequence[str],
    settings: SamplerSettings,
    cache: Path,
    seed: int = 0,
    *,
    drawn: Told | None = None,
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
        latents = _read_latents(file, (len(chunk), *model.latent_shape))
        if latents is None:
            seeds = [seed * SEEDS_PER_SET + start + i for i in range(len(chunk))]
            batches = _telling(sample_latents(model, chunk, seeds, settings), drawn)
            latents = torch.cat([batch.cpu() for batch in batches]).contiguous()
            require_finite(latents, "the sampler draws latents")
            write_bytes_atomic(file, save({"latents": latents}))
        else:
            _tell(drawn, len(chunk))
        parts.append(latents.to(model.device))
    return torch.cat(parts)


def _pictures(
    files: Sequence[Path],
    prompts: Sequence[str],
    seeds: Sequence[int],
    sampler: SamplerSettings,
    model: Callable[[], DiffusionModel],
    told: Told | None,
    *,
    strict: bool = False,
) -> Tensor:
    """The pictures in `files`; those that cannot be read are drawn and written."""
    found = {
        index: picture
        for index, file in enumerate(files)
        if (picture := read_png(file)) is not None
    }
    if len({picture.shape for picture in found.values()}) > 1:  # somebody else's among them
        side = model().resolution
        found = {i: picture for i, picture in found.items() if picture.shape == (side, side, 3)}
    missing = [index for index in range(len(files)) if index not in found]
    _tell(told, len(found))
    if missing:
        drawn = draw_pictures(
            model(),
            [files[index] for index in missing],
            [prompts[index] for index in missing],
            [seeds[index] for index in missing],
            sampler,
            told,
            strict=strict,
        )
        found |= dict(zip(missing, drawn, strict=True))
    return torch.stack([found[index] for index in range(len(files))])


def draw_pictures(
    model: DiffusionModel,
    files: Sequence[Path],
    prompts: Sequence[str],
    seeds: Sequence[int],
    sampler: SamplerSettings,
    told: Told | None = None,
    *,
    strict: bool = False,
) -> list[Tensor]:
    """Draw a picture into every file, each batch as it comes; uint8 (R, R, 3) each."""
    found: list[Tensor] = []
    for batch in sample(model, prompts, seeds, sampler, strict=strict):
        for picture in batch:
            write_bytes_atomic(files[len(found)], png_bytes(picture))
            found.append(picture)
        _tell(told, len(batch))
    return found


def _prepare(folder: Path, about: dict[str, Any], *, keyed: bool) -> None:
    """Make `folder` ready for the pictures that `about` describes."""
    file = folder / ABOUT
    same = _about(file) == about
    if not keyed and folder.is_dir():
        remove_leftovers(folder)
        if not same:
            for old in folder.glob("*.png"):
                old.unlink()
    if not same:
        with writing_to(folder):
            folder.mkdir(parents=True, exist_ok=True)
        write_json_atomic(file, about)


def _about(file: Path) -> dict[str, Any] | None:
    """What a folder says of its pictures; None where that is missing or damaged."""
    try:
        return read_json(file)
    except ApdmError:
        return None


def _described(settings: SamplerSettings) -> dict[str, Any]:
    # The batch size does not enter: a picture depends on its own seed only.
    return settings.model_dump(exclude={"batch_size"})


def _key(model: DiffusionModel, prompt: str, settings: SamplerSettings, seed: int) -> str:
    described = [model.ref.digest, prompt, _described(settings), seed, *_held(model).values()]
    text = json.dumps(described, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _held(model: DiffusionModel) -> dict[str, str]:
    """How a model is held that draws otherwise than its files do in float32."""
    weights = [weight for weight in model.trained.parameters() if weight.is_floating_point()]
    lowered = {name_of(weight.dtype) for weight in weights} - {"float32"}
    return {
        **in_key(model.dtype),
        **({"base": "int8"} if eight_bit_layers(model.trained) else {}),
        **({"weights": " ".join(sorted(lowered))} if lowered else {}),
    }


def _read_latents(file: Path, shape: tuple[int, ...]) -> Tensor | None:
    """The latents, or None where they are missing, damaged, or not such as are written."""
    try:
        latents = load_file(file)["latents"].clone()
    except (OSError, SafetensorError, KeyError):
        return None
    whole = latents.shape == shape and latents.dtype == torch.float32
    return latents if whole and torch.isfinite(latents).all() else None


def _telling(batches: Iterator[Tensor], drawn: Told | None) -> Iterator[Tensor]:
    for batch in batches:
        _tell(drawn, len(batch))
        yield batch


def _tell(drawn: Told | None, count: int) -> None:
    if drawn is not None and count:
        drawn(count)
