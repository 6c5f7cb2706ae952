"""The pictures that a sheet or a report shows: found, chosen by number, never by looks."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from apdm_cli.diffusion.photo_decoding import decode_picture, square
from apdm_cli.diffusion.photo_files import SUFFIXES
from apdm_cli.errors import ApdmError
from apdm_cli.report.schema import Line
from apdm_cli.report.scores import EvaluatedRun

_NUMBERED = re.compile(r"\d+\.png")


@dataclass(frozen=True)
class Pair:
    """Pictures of the same seeds, both arms; one side is empty where that arm is missing."""

    title: str
    numbers: tuple[str, ...]
    original: tuple[Image.Image, ...]
    protected: tuple[Image.Image, ...]


def pair_of(run: EvaluatedRun, line: Line, count: int, side: int) -> Pair | None:
    """`count` pictures per arm of what `line` judges, RGB, at most `side` pixels; None without any.

    They are spread evenly over the pictures that every present arm has, so they cover all prompts.
    """
    folders = {
        arm: run.pictures(folder)
        for arm in ("original", "protected")
        if (folder := getattr(line.pictures, arm))
    }
    files = {arm: _numbered(folder) for arm, folder in folders.items()}
    files = {arm: names for arm, names in files.items() if names}
    if not files:
        return None
    shared = sorted(set.intersection(*map(set, files.values())))
    numbers = tuple(shared[index] for index in spread(len(shared), count))
    shown = {arm: tuple(_thumbnail(folders[arm] / n, side) for n in numbers) for arm in files}
    return Pair(line.label, numbers, shown.get("original", ()), shown.get("protected", ()))


def attack_lines(lines: Sequence[Line]) -> list[Line]:
    """One line per attack, whatever the metric: whose pictures are shown, in the table's order."""
    return list({line.label: line for line in reversed(lines) if line.role == "attack"}.values())[
        ::-1
    ]


def spread(total: int, count: int) -> list[int]:
    """`count` indices evenly over range(total), the first among them; all where there are fewer."""
    count = min(total, count)
    return [index * total // count for index in range(count)]


def subject_photos(manifest: dict[str, Any], side: int) -> list[Image.Image]:
    """The subject's photos as thumbnails, found again where `protect` read them.

    Raises `ApdmError` when one is gone or has changed since.
    """
    photos = (manifest.get("subject") or {}).get("photos") or {}
    wanted = {str(file["sha256"]): str(file["name"]) for file in photos.get("files") or []}
    found: dict[str, Image.Image] = {}
    for source in photos.get("sources") or []:
        for file in _files(Path(source)):
            content = file.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            if digest in wanted and digest not in found:
                found[digest] = square(decode_picture(content, file.name), side)
    missing = [name for digest, name in wanted.items() if digest not in found]
    if missing:
        raise ApdmError(
            f"--include-photos: {', '.join(missing[:3])} {'is' if len(missing) == 1 else 'are'} "
            "no longer where the run read them, or changed since",
            "Put the photos back, or leave --include-photos out.",
        )
    return [found[digest] for digest in wanted]


def _files(source: Path) -> list[Path]:
    files = [source] if source.is_file() else sorted(source.glob("*"))
    return [file for file in files if file.is_file() and file.suffix.lower() in SUFFIXES]


def _numbered(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(file.name for file in folder.iterdir() if _NUMBERED.fullmatch(file.name))


def _thumbnail(file: Path, side: int) -> Image.Image:
    try:
        with Image.open(file, formats=("PNG",)) as picture:
            shown = picture.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise ApdmError(
            f"{file} is damaged ({error})", "Delete it and run apdm evaluate again."
        ) from error
    shown.thumbnail((side, side), Image.Resampling.LANCZOS)
    return shown
