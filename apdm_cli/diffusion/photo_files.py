"""Which files are the photos, and in which order: nothing here decodes a picture."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from apdm_cli.errors import ApdmError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
ACCEPTED = "jpg, png, webp, bmp or tiff"


class PhotoFile(NamedTuple):
    """One photo as it lies on the disk; `name` is all of its path that a run may remember."""

    name: str
    sha256: str
    content: bytes


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sort key under which `dog2.jpg` stands before `dog10.jpg`, whatever the file system says.

    Case and the Unicode form (macOS stores names decomposed) don't matter, save to break a tie.
    """
    normal = unicodedata.normalize("NFC", name)
    # Without the suffix, so that "dog.jpg" stands before "dog1.jpg".
    parts = re.split(r"(\d+)", Path(normal).stem.casefold())
    # Numbers stand at the odd places of every key, so that no number meets a text in a comparison.
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], normal


def find_photos(paths: Sequence[Path]) -> tuple[list[Path], int]:
    """The photos among `paths` in natural order of their names, and how many files were ignored.

    A path is a folder (its own files, not those of folders below) or one file. A file that is
    reached twice counts once. Hidden files and other kinds of file in a folder are ignored.

    Raises `ApdmError` for a path that is missing, a single file that is no picture by its
    suffix, and when no photo is left.
    """
    found: dict[Path, Path] = {}
    ignored = 0
    for path in paths:
        if path.is_dir():
            for entry in _entries(path):
                if _is_photo(entry):
                    found.setdefault(entry.resolve(), entry)
                else:
                    ignored += 1
        elif not path.exists():
            raise ApdmError(f"{path} does not exist", "Give a folder of photos or single files.")
        elif path.is_file() and path.suffix.lower() in SUFFIXES:
            found.setdefault(path.resolve(), path)
        else:
            raise ApdmError(f"{path} is not a photo", f"Give {ACCEPTED} files, or their folder.")
    if not found:
        raise ApdmError(*_nothing_found(paths, ignored))
    return sorted(found.values(), key=lambda path: natural_key(path.name)), ignored


def read_photo_files(files: Iterable[Path]) -> list[PhotoFile]:
    """Read each file once, so that the digest belongs to the very bytes that are decoded.

    Files of one name (from two folders) are ordered by content: the order never depends on
    where the folders lie.
    """
    photos = []
    for path in files:
        try:
            content = path.read_bytes()
        except OSError as error:
            reason = error.strerror or str(error)
            raise ApdmError(f"{path} cannot be read: {reason}", "Check its permissions.") from error
        photos.append(
            PhotoFile(_printable(path.name), hashlib.sha256(content).hexdigest(), content)
        )
    return sorted(photos, key=lambda photo: (natural_key(photo.name), photo.sha256))


def photo_hashes(paths: Sequence[Path]) -> tuple[tuple[str, str], ...]:
    """(file name, SHA-256 of the content) of every photo, in the order of `load_photos`."""
    files, _ = find_photos(paths)
    return tuple((photo.name, photo.sha256) for photo in read_photo_files(files))


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        reason = error.strerror or str(error)
        raise ApdmError(f"{folder} cannot be read: {reason}", "Check its permissions.") from error


def _is_photo(path: Path) -> bool:
    # macOS leaves "._IMG_1.jpg" beside "IMG_1.jpg": hidden files are never photos.
    hidden = path.name.startswith(".")
    return not hidden and path.suffix.lower() in SUFFIXES and path.is_file()


def _nothing_found(paths: Sequence[Path], ignored: int) -> tuple[str, str]:
    where = ", ".join(str(path) for path in paths) or "the command line"
    if any(entry.is_dir() for path in paths for entry in path.iterdir()):
        hint = "Folders below it are not searched: give the one with the photos."
    else:
        hint = f"Put {ACCEPTED} files of the subject there, or give another folder."
    found = f"({ignored} other files or folders ignored)" if ignored else "(nothing is in it)"
    return f"No photos in {where} {found}", hint


def _printable(name: str) -> str:
    """`name` without the lone surrogates of a file name that is no valid UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
