"""Pictures on disk, drawn once: an interrupted evaluation goes on with the missing ones."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.sampling import SamplerSettings, sample
from apdm_cli.runs.atomic import remove_leftovers, write_bytes_atomic
from apdm_cli.runs.jsonable import canonical_json, jsonable
from apdm_cli.runs.manifest import read_json, write_json_atomic

ABOUT = "about.json"


@dataclass(frozen=True)
class Order:
    """Which pictures to draw: picture i from prompt i and seed i.

    Attributes:
        origin: what draws them (digest of the model, name of the cell), for the cache.
        prompts, seeds: of equal length N.
        sampler: its batch size changes no picture.
    """

    origin: Mapping[str, Any]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    sampler: SamplerSettings

    @property
    def description(self) -> dict[str, Any]:
        """Everything that the pictures depend on."""
        return {
            "origin": jsonable(self.origin),
            "prompts": list(self.prompts),
            "seeds": list(self.seeds),
            "sampler": self.sampler.model_dump(exclude={"batch_size"}),
        }

    @property
    def key(self) -> str:
        """12 hexadecimal digits that name them."""
        return hashlib.sha256(canonical_json(self.description).encode()).hexdigest()[:12]


def drawn(
    order: Order,
    folder: Path,
    model: Callable[[], DiffusionModel],
    advance: Callable[[int], None] = lambda count: None,
) -> Tensor:
    """The pictures of `order`, from `folder` or drawn into it: uint8 (N, R, R, 3).

    Args:
        model: called only if a picture is missing.
        advance: told how many pictures became available.
    """
    _prepare(folder, order)
    files = [folder / f"{index:04d}.png" for index in range(len(order.prompts))]
    missing = [index for index, file in enumerate(files) if not file.is_file()]
    advance(len(files) - len(missing))
    if missing:
        batches = sample(
            model(),
            [order.prompts[index] for index in missing],
            [order.seeds[index] for index in missing],
            order.sampler,
        )
        done = 0
        for batch in batches:
            for picture in batch:
                write_bytes_atomic(files[missing[done]], _png(picture))
                done += 1
            advance(len(batch))
    return torch.stack([torch.from_numpy(np.array(Image.open(f).convert("RGB"))) for f in files])


def _prepare(folder: Path, order: Order) -> None:
    """An existing folder is kept when it was made from the same description."""
    about = folder / ABOUT
    if about.is_file() and read_json(about) == order.description:
        remove_leftovers(folder)
        return
    if folder.is_dir():
        for file in [*folder.glob("*.png"), *folder.glob(ABOUT)]:
            file.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    write_json_atomic(about, order.description)


def _png(picture: Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture.numpy()).save(buffer, format="PNG")
    return buffer.getvalue()
