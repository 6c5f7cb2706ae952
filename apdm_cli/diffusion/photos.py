"""The photos of a subject as one tensor. It stays in memory: photos are never written anywhere."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from apdm_cli.diffusion.photo_decoding import decode_picture, square
from apdm_cli.diffusion.photo_files import (
    PhotoFile,
    find_photos,
    photo_hashes,
    read_photo_files,
)

__all__ = ["Photos", "find_photos", "load_photos", "photo_hashes"]


@dataclass(frozen=True)
class Photos:
    """N photos of one subject, ready for the encoder.

    pixels: float32 (N, 3, R, R) in [-1, 1], sRGB. names, sha256: of the N files, in the same
    order. ignored: how many other files the folders held. warnings: sentences for the user.
    """

    names: tuple[str, ...]
    sha256: tuple[str, ...]
    pixels: torch.Tensor
    ignored: int = 0
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)


def load_photos(paths: Sequence[Path], resolution: int) -> Photos:
    """Read folders or single files into pixels of `resolution` x `resolution`.

    The order is the natural order of the file names, so the same folder gives the same tensor on
    every machine. Raises `ApdmError` (file and remedy named) for missing paths, no photos,
    pictures that cannot be read, and shapes that cannot be used.
    """
    files, ignored = find_photos(paths)
    photos = read_photo_files(files)
    rows, enlarged = [], []
    for photo in photos:
        picture = decode_picture(photo.content, photo.name)
        if min(picture.size) < resolution:
            enlarged.append(photo.name)
        rows.append(np.asarray(square(picture, resolution)))
    values = torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).contiguous()
    return Photos(
        names=tuple(photo.name for photo in photos),
        sha256=tuple(photo.sha256 for photo in photos),
        pixels=values.to(torch.float32) / 127.5 - 1.0,
        ignored=ignored,
        warnings=tuple(_warnings(photos, ignored, enlarged, resolution)),
    )


def _warnings(
    photos: list[PhotoFile], ignored: int, enlarged: list[str], resolution: int
) -> list[str]:
    found = []
    if len(photos) == 1:
        found.append(
            f"Only one photo ({photos[0].name}): other photos of the subject may stay unprotected."
        )
    names = defaultdict(list)
    for photo in photos:
        names[photo.sha256].append(photo.name)
    found += [
        f"{_listed(same)} have identical content: they count {len(same)} times."
        for same in names.values()
        if len(same) > 1
    ]
    if enlarged:
        verb = "is" if len(enlarged) == 1 else "are"
        found.append(
            f"{_listed(enlarged)} {verb} smaller than the model's {resolution} pixels: enlarged."
        )
    if ignored:
        found.append(f"Other files or folders beside the photos: {ignored} ignored.")
    return found


def _listed(names: list[str], most: int = 3) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
