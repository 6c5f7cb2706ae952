"""Who is in the training, and stage: everybody is drawn once, into one table of pictures."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pocket_training import renderer
from pocket_training.plan import NAMED_FROM, PEOPLE_FROM, VALIDATION_FROM, Plan
from pocket_training.streams import stream
from pocket_training.tokenizer import words
from pocket_training.workshop import Workshop

SIZE = 64  # pixels
_ONSETS = (
    *("b", "d", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "z"),
    *("br", "dr", "kl", "fl", "gr", "tr", "sh", "th", "ch"),
)
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "io", "ua")
_CODAS = ("", "", "n", "l", "r", "s", "m", "k", "th", "x")


@dataclass(frozen=True)
class Group:
    """A block of the table: `identities` x `photos` rows, the photos of one identity together."""

    class_noun: str
    start: int
    identities: int
    photos: int
    first_seed: int
    phrases: list[tuple[str, ...]]
    names: list[str]

    @property
    def rows(self) -> slice:
        """The block's rows in the picture table."""
        return slice(self.start, self.start + self.identities * self.photos)


def groups(plan: Plan) -> dict[str, Group]:
    """The blocks of the picture table in their order."""
    return dict(_groups(plan))


@cache
def _groups(plan: Plan) -> dict[str, Group]:
    names = invented_names(plan.names, plan.seed, set(words([])))
    blocks = [
        ("people", "person", plan.people, plan.photos_of_people, PEOPLE_FROM),
        ("named", "person", plan.names, plan.photos_of_named, NAMED_FROM),
        ("dog", "dog", plan.pets, plan.photos_of_pets, PEOPLE_FROM),
        ("cat", "cat", plan.pets, plan.photos_of_pets, PEOPLE_FROM),
    ]
    result: dict[str, Group] = {}
    start = 0
    for key, noun, count, photos, first in blocks:
        seeds = range(first, first + count)
        phrases = [renderer.attributes(renderer.identity(noun, s)) for s in seeds]
        named = names if key == "named" else []
        result[key] = Group(noun, start, count, photos, first, phrases, named)
        start += count * photos
    return result


def _pick(options: tuple[str, ...], generator: torch.Generator) -> str:
    return options[int(torch.randint(len(options), (1,), generator=generator))]


def invented_names(count: int, seed: int, taken: set[str]) -> list[str]:
    """`count` different names of two syllables (4 letters or more), none of them in `taken`."""
    generator = stream(seed, "names")
    names: dict[str, None] = {}
    while len(names) < count:
        name = _pick(_ONSETS, generator) + _pick(_VOWELS, generator)
        name += _pick(_ONSETS, generator) + _pick(_VOWELS, generator) + _pick(_CODAS, generator)
        if len(name) >= 4 and name not in taken:
            names[name] = None
    return list(names)


def named_seeds(names: list[str]) -> dict[str, int]:
    """Name -> seed of the identity of class person that bears it."""
    return {name: NAMED_FROM + index for index, name in enumerate(names)}


def photo_array(class_noun: str, seed: int, photo: int) -> np.ndarray:
    """One photo, uint8 (64, 64, 3)."""
    return np.asarray(renderer.photo(renderer.identity(class_noun, seed), photo, SIZE))


def _photos(noun: str, seed: int, count: int) -> np.ndarray:
    return np.stack([photo_array(noun, seed, photo) for photo in range(count)])


def _fill(job: tuple[Path, int, str, int, int]) -> None:
    """Draws one identity into its rows of the table, which is a file that all workers map."""
    path, start, noun, seed, count = job
    np.load(path, mmap_mode="r+")[start : start + count] = _photos(noun, seed, count)


def render(plan: Plan, path: Path, workers: int) -> None:
    """Writes the table, uint8 (pictures, 64, 64, 3), to `path` (.npy)."""
    partial = path.with_suffix(".partial")
    blocks = groups(plan).values()
    jobs = [
        (partial, block.start + i * block.photos, block.class_noun, block.first_seed + i,
         block.photos)
        for block in blocks
        for i in range(block.identities)
    ]  # fmt: skip
    rows = sum(block.identities * block.photos for block in blocks)
    np.lib.format.open_memmap(partial, "w+", np.uint8, (rows, SIZE, SIZE, 3)).flush()
    with get_context("spawn").Pool(workers) as pool:
        for _ in pool.imap_unordered(_fill, jobs, chunksize=32):
            pass
    os.replace(partial, path)


def table(shop: Workshop) -> Tensor:
    """The picture table, uint8 (pictures, 64, 64, 3): in the GPU's memory, or mapped."""
    # Mapped copy-on-write: PyTorch wants memory that could be written to.
    mapped = np.load(shop.path("pictures.npy"), mmap_mode="c" if shop.device == "cpu" else None)
    return torch.from_numpy(mapped).to(shop.device)


def make(shop: Workshop) -> dict[str, Any]:
    """The stage: renders the table unless it is there."""
    path = shop.path("pictures.npy")
    render(shop.plan, path, shop.cores)
    return {"pictures": len(np.load(path, mmap_mode="r")), "bytes": path.stat().st_size}


def held_out(class_noun: str, identities: int, photos: int) -> np.ndarray:
    """Photos of validation identities, uint8 (identities, photos, 64, 64, 3)."""
    seeds = range(VALIDATION_FROM, VALIDATION_FROM + identities)
    return np.stack([_photos(class_noun, seed, photos) for seed in seeds])


def to_tensor(pictures: np.ndarray | Tensor) -> Tensor:
    """uint8 (n, 64, 64, 3) to float32 (n, 3, 64, 64) in [-1, 1]."""
    values = pictures if isinstance(pictures, Tensor) else torch.from_numpy(np.array(pictures))
    values = values.permute(0, 3, 1, 2)
    if values.is_cuda:  # cuDNN would take the strides for a wish, with 3 channels in 16 lanes
        values = values.contiguous()
    return values / 127.5 - 1


def contact_sheet(rows: list[Tensor], path: Path) -> None:
    """Saves rows of pictures, each (n, 3, 64, 64) in [-1, 1], as one PNG."""
    from PIL import Image

    lines = [torch.cat(list(row.detach().float().cpu()), 2) for row in rows]
    sheet = ((torch.cat(lines, 1).clamp(-1, 1) + 1) * 127.5).round().byte()
    Image.fromarray(sheet.permute(1, 2, 0).contiguous().numpy()).save(path)
