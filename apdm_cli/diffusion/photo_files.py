"""Which files are the photos, and in which order: nothing here decodes a picture."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from apdm_cli.diffusion.photo_opening import (
    MAX_BYTES,
    is_out_of_reach,
    opened,
    refusal,
    sha256_of,
    unreadable,
)
from apdm_cli.errors import ApdmError
from apdm_cli.paths import is_regular, require_ordinary
from apdm_cli.visible import visible

# Pillow's name of a format → the endings that its files are met with.
ENDINGS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "PSD": (".psd",),
}
HEIF_ENDINGS = (".heic", ".heif", ".hif", ".heics", ".heifs")
# Cameras' own formats, and drawings: they show something, and nothing here reads them.
OTHER_PICTURES = frozenset(
    f".{ending}"
    for ending in (
        *("3fr", "arw", "cr2", "cr3", "crw", "dcr", "dng", "erf", "iiq", "kdc", "mef", "mos"),
        *("mrw", "nef", "nrw", "orf", "pef", "raf", "raw", "rw2", "rwl", "sr2", "srf", "srw"),
        *("x3f", "jxl", "qoi", "tga", "xcf", "ai", "eps", "pdf", "ps", "svg"),
    )
)
# How the content of pictures begins, for files whose ending says nothing.
_BEGINNINGS = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n",
    b"GIF8",
    b"II*\x00",
    b"MM\x00*",
    b"\x00\x00\x00\x0cjP",
)
_BRANDS = re.compile(rb"....ftyp(avi[fs]|hei[cfmsx]|hev[cx]|mif1|msf1)", re.DOTALL)
SUFFIXES = frozenset(ending for endings in ENDINGS.values() for ending in endings)
ACCEPTED = "jpg, png, webp, heic, avif, gif, bmp or tiff"
MAX_PHOTOS = 10_000
CAPTION, MAX_CAPTION = ".txt", 4000  # beside a photo, with its name; in bytes
MASK = "-masklabel.png"  # follows the name of the photo that it is for, as in OneTrainer


class PhotoFile(NamedTuple):
    """One photo as it lies on the disk; `name` is all of its path that a run may remember."""

    name: str
    sha256: str
    path: Path


class Ignored(NamedTuple):
    """A file or folder that is not used. `is_picture`: it may be a photo of the subject."""

    name: str
    reason: str
    is_picture: bool = False


class ChangedPhoto(ApdmError):
    """A photo was written while it was read: it can be read, but not now."""


class Found(NamedTuple):
    """What lies in the folders and files that were given."""

    files: list[Path]
    ignored: tuple[Ignored, ...]


def heif_is_here() -> bool:
    """Whether HEIC and HEIF can be read: the package pillow-heif comes with `apdm[heif]`."""
    return find_spec("pillow_heif") is not None


def natural_key(name: str) -> tuple[list[str | tuple[int, str]], str]:
    """Sort key under which `dog2.jpg` stands before `dog10.jpg`, whatever the file system says.

    Case and the Unicode form (macOS stores names decomposed) don't matter, save to break a tie.
    """
    normal = unicodedata.normalize("NFC", name)
    # Without the suffix, so that "dog.jpg" stands before "dog1.jpg".
    parts = re.split(r"([0-9]+)", Path(normal).stem.casefold())
    # Numbers stand at the odd places of every key, so that no number meets a text in a comparison.
    # By their length first, which is their size without a limit on the number of digits.
    return [
        (len(part.lstrip("0")), part.lstrip("0")) if place % 2 else part
        for place, part in enumerate(parts)
    ], normal


def find_photos(
    paths: Sequence[Path], *, ignore_unreadable: bool = False, may_ignore: bool = True
) -> Found:
    """The photos among `paths` in natural order of their names, and what else lies there.

    A path is a folder (its own files, not those of folders below) or one file. A file that is
    reached twice counts once. Hidden files and other kinds of file in a folder are ignored.

    Args:
        ignore_unreadable: go on without pictures that cannot be read here, or not be opened.
            Otherwise they are an error, because whoever thinks of them as protected would be wrong.
        may_ignore: whether the command could have been told so, for the error.

    Raises `ApdmError` for a path that is missing or is no ordinary file or folder, a single file
    that is no picture by its suffix, pictures that would be left out, and when no photo is left.
    """
    found: dict[Path, Path] = {}
    ignored: list[Ignored] = []
    for path in paths:
        require_ordinary(path)
        try:
            is_folder, is_there = path.is_dir(), path.exists()
        except OSError as error:  # a folder above it is closed
            raise unreadable(path, error) from error
        if is_folder:
            for entry in _entries(path):
                reason = _why_not(entry)
                if reason is None:
                    found.setdefault(entry.resolve(), entry)
                else:
                    ignored.append(reason)
        elif not is_there:
            raise ApdmError(f"{path} does not exist", "Give a folder of photos or single files.")
        else:
            reason = _why_not(path)
            if reason is not None:
                hint = f"Give {ACCEPTED} files, or their folder."
                raise ApdmError(f"{path} is not a photo that can be read: {reason.reason}", hint)
            found.setdefault(path.resolve(), path)
    left_out = [entry for entry in ignored if entry.is_picture]
    if left_out and not ignore_unreadable:
        raise _would_be_left_out(left_out) if may_ignore else _not_readable(left_out)
    closed = {place: why for place, path in found.items() if (why := refusal(path))}
    for place, why in closed.items():
        if not ignore_unreadable:
            hint = f"{why.hint} To go on without it: --ignore-unreadable."
            raise ApdmError(why.what, hint) if may_ignore else why
        ignored.append(unread(found.pop(place), why))
    if not found and closed:
        raise none_readable(entry for entry in ignored if entry.is_picture)
    if not found:
        raise ApdmError(*_nothing_found(paths, ignored))
    if len(found) > MAX_PHOTOS:
        raise ApdmError(f"{len(found)} photos are more than {MAX_PHOTOS}", "Choose some of them.")
    return Found(sorted(found.values(), key=lambda path: natural_key(path.name)), tuple(ignored))


def hash_photo_files(files: Iterable[Path]) -> list[PhotoFile]:
    """Digests of the files, one after another and never a whole one in memory.

    Files of one name (from two folders) are ordered by content: the order never depends on
    where the folders lie.
    """
    photos = (PhotoFile(visible(path.name), sha256_of(path), path) for path in files)
    return sorted(photos, key=_by_name)


def hash_readable(files: Iterable[Path]) -> tuple[list[PhotoFile], list[Ignored]]:
    """As `hash_photo_files`, and those that cannot be read any more, which may have been moved."""
    readable: list[PhotoFile] = []
    gone = []
    for path in files:
        try:
            readable += hash_photo_files([path])
        except ApdmError as error:
            gone.append(unread(path, error))
    return sorted(readable, key=_by_name), gone


def _by_name(photo: PhotoFile) -> tuple[Any, str]:
    return natural_key(photo.name), photo.sha256


def unread(path: Path, error: ApdmError) -> Ignored:
    """A photo that is left out because of `error`."""
    name = visible(path.name)
    said = error.what.removeprefix(f"{path} ").removeprefix(f"{name} ").removeprefix("is ")
    reason = re.sub(r"^(cannot be (?:read|looked at)): (.+)", r"\1 (\2)", said)
    return Ignored(name, reason, True)


def none_readable(pictures: Iterable[Ignored]) -> ApdmError:
    """There are photos, and none of them can be used."""
    return ApdmError(
        "No photo can be read: "
        + listed([f"{entry.name} ({entry.reason})" for entry in pictures], 10),
        "Look at their permissions or copy them again from their source, or give another folder.",
    )


def read_content(photo: PhotoFile) -> bytes:
    """The bytes of `photo`. ApdmError when they are not those that were hashed any more."""
    try:
        with opened(photo.path) as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise unreadable(photo.path, error) from error
    if hashlib.sha256(content).hexdigest() != photo.sha256:
        raise ChangedPhoto(
            f"{photo.name} was changed while it was read", "Run the command again when it is done."
        )
    return content


def photo_hashes(
    paths: Sequence[Path], *, ignore_unreadable: bool = False
) -> tuple[tuple[str, str], ...]:
    """(file name, SHA-256 of the content) of every photo, in the order of `load_photos`."""
    files, _ = find_photos(paths, ignore_unreadable=ignore_unreadable, may_ignore=False)
    return tuple((photo.name, photo.sha256) for photo in hash_photo_files(files))


def photo_captions(paths: Sequence[Path]) -> tuple[str, ...]:
    """What the .txt beside each photo says, on one line, in the order of `load_photos`.

    Trainers keep captions so. A photo without one has an empty caption; where none has any, there
    are no entries at all.

    Raises:
        ApdmError: no photos, or a caption that is no text or too long.
    """
    files, _ = find_photos(paths, ignore_unreadable=True)
    captions = tuple(_caption(photo.path.with_suffix(CAPTION)) for photo in hash_photo_files(files))
    return captions if any(captions) else ()


def mask_files(paths: Sequence[Path]) -> tuple[tuple[PhotoFile, PhotoFile | None], ...]:
    """Every photo with the mask beside it, `1-masklabel.png` for `1.jpg`, or None.

    In the order of `load_photos`. ApdmError without photos.
    """
    files, _ = find_photos(paths, ignore_unreadable=True)
    return tuple((photo, _mask(photo.path)) for photo in hash_photo_files(files))


def _mask(photo: Path) -> PhotoFile | None:
    file = photo.with_name(f"{photo.stem}{MASK}")
    return hash_photo_files([file])[0] if os.path.lexists(file) else None


def _is_mask(path: Path) -> bool:
    """Whether a photo that it is for lies beside it."""
    if not path.name.endswith(MASK):
        return False
    photo = path.name.removesuffix(MASK)
    endings = SUFFIXES.union(HEIF_ENDINGS)
    return any(
        entry.stem == photo and entry.suffix.lower() in endings for entry in _entries(path.parent)
    )


def _caption(file: Path) -> str:
    if not os.path.lexists(file):  # a link that leads nowhere is no caption that nobody wrote
        return ""
    try:
        with opened(file) as stream:
            content = stream.read(MAX_CAPTION + 1).decode("utf-8")
    except OSError as error:
        raise unreadable(file, error) from error
    except UnicodeDecodeError as error:
        raise ApdmError(f"{file} cannot be read as a caption", "Save it as UTF-8 text.") from error
    if len(content) > MAX_CAPTION:
        raise ApdmError(f"{file} is too long for a caption", "A sentence or two is what it takes.")
    return " ".join(content.split())


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise unreadable(folder, error) from error


def _why_not(path: Path) -> Ignored | None:
    """Why `path` is not read as a photo; None when it is."""
    name, ending = visible(path.name), path.suffix.lower()
    # macOS leaves "._IMG_1.jpg" beside "IMG_1.jpg": hidden files are never photos.
    if path.name.startswith("."):
        return Ignored(name, "hidden")
    if _is_mask(path):
        return Ignored(name, "the mask of a photo")
    if not is_regular(path):
        with contextlib.suppress(OSError):
            if path.is_dir():
                return Ignored(name, "a folder, which is not searched")
        if not is_out_of_reach(path):
            return Ignored(name, "no ordinary file")
    if ending in SUFFIXES:
        return None
    if ending in HEIF_ENDINGS:
        if heif_is_here():
            return None
        return Ignored(name, "HEIC needs the package pillow-heif: pip install 'apdm[heif]'", True)
    if ending in OTHER_PICTURES:
        return Ignored(name, f"a picture of a kind that is not read ({ending[1:]})", True)
    if _begins_like_a_picture(path):
        said = f"the ending {visible(ending)}" if ending else "a name without ending"
        return Ignored(name, f"a picture by its content, with {said}", True)
    return Ignored(name, "no picture")


def _begins_like_a_picture(path: Path) -> bool:
    try:
        with opened(path) as file:
            start = file.read(32)
    except (OSError, ApdmError):
        return False
    webp = start[:4] == b"RIFF" and start[8:12] == b"WEBP"
    return webp or start.startswith(_BEGINNINGS) or _BRANDS.match(start) is not None


def _would_be_left_out(entries: Sequence[Ignored]) -> ApdmError:
    several = len(entries) > 1
    return ApdmError(
        f"{len(entries)} picture{'s' if several else ''} would be left out, and stay unprotected: "
        + listed([f"{entry.name} ({entry.reason})" for entry in entries], 10),
        "Save them as jpg or png first, or go on without them: --ignore-unreadable.",
    )


def _not_readable(entries: Sequence[Ignored]) -> ApdmError:
    several = len(entries) > 1
    return ApdmError(
        f"{len(entries)} picture{'s' if several else ''} cannot be read: "
        + listed([f"{entry.name} ({entry.reason})" for entry in entries], 10),
        "Save them as jpg or png first, or take them out of the folder."
        if several
        else "Save it as jpg or png first, or take it out of the folder.",
    )


def _nothing_found(paths: Sequence[Path], ignored: Sequence[Ignored]) -> tuple[str, str]:
    where = ", ".join(str(path) for path in paths) or "the command line"
    if any(entry.reason.startswith("a folder") for entry in ignored):
        hint = "Folders below it are not searched: give the one with the photos."
    else:
        hint = f"Put {ACCEPTED} files of the subject there, or give another folder."
    number = len(ignored)
    found = f"({number} other files or folders ignored)" if number else "(nothing is in it)"
    return f"No photos in {where} {found}", hint


def listed(names: Sequence[str], most: int = 3) -> str:
    """ "a, b, c and 4 more"."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
