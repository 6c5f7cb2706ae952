"""From the bytes of one picture file to an upright 8-bit sRGB picture, and to a square."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageCms, ImageOps

from apdm_cli.diffusion.photo_files import (
    ENDINGS,
    PhotoFile,
    find_photos,
    hash_photo_files,
    heif_is_here,
    read_content,
)
from apdm_cli.errors import ApdmError

Crop = Literal["center", "face", "none"]

# More than cameras take; a decompression bomb claims far more in a few kilobytes. Below the number
# at which Pillow refuses by itself.
MAX_PIXELS = 150_000_000
# What one photo may cost while it is decoded, its file included; the process itself comes on top.
MAX_MEMORY = 1_300_000_000
MIN_SIDE = 16
MAX_ASPECT = 10.0

# Bytes per pixel at the worst moment of decoding, by Pillow's format, and what transparency adds;
# measured, and held against a real process by tests/hostile/test_memory.py. Pillow keeps RGB in
# four bytes, a colour profile makes a second copy, and some decoders keep frames of their own.
_COST = {"JPEG": 8.5, "PNG": 10.5, "BMP": 10.5, "DIB": 10.5, "PPM": 10.5, "TIFF": 10.5}
_COST_OF_OTHERS, _COST_OF_ALPHA, _COST_OF_PROGRESSIVE = 20.0, 5.0, 5.0
# Named, because Pillow would otherwise also start Ghostscript and other decoders for a file
# that merely has the suffix of a photo.
_FORMATS = tuple(ENDINGS)
_SRGB = ImageCms.createProfile("sRGB")
_SIXTEEN_BIT = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I"})
_ROWS = 256  # of a picture converted at once


def require_readable(paths: Sequence[Path], *, may_ignore: bool = False) -> None:
    """Decode every photo in `paths` once: what cannot be used is said before anything else begins.

    Args:
        may_ignore: see `find_photos`.

    Raises:
        ApdmError: no photos, or the first that cannot be read, by its name.
    """
    for photo in hash_photo_files(find_photos(paths, may_ignore=may_ignore).files):
        content = read_content(photo)
        try:
            decode_picture(content, photo.name)
        except ApdmError as error:
            if not may_ignore:
                raise
            hint = f"{error.hint} To go on without it: --ignore-unreadable."
            raise ApdmError(error.what, hint) from error


def is_readable(photo: PhotoFile) -> bool:
    """Whether `photo` can be decoded."""
    content = read_content(photo)
    try:
        decode_picture(content, photo.name)
    except ApdmError:
        return False
    return True


def decode_picture(content: bytes, name: str) -> Image.Image:
    """`decode_first` without the number of pictures."""
    return decode_first(content, name)[0]


def decode_first(content: bytes, name: str) -> tuple[Image.Image, int]:
    """Decode `content` to mode RGB, sRGB, upright, transparent parts on white.

    Returns the first picture, and how many the file holds.

    Raises `ApdmError`, which names `name`, when it is no picture, is damaged, is too large to be
    decoded safely, or has a shape of which a square crop would show next to nothing.
    """
    if not content:
        raise ApdmError(
            f"{name} is empty", "Copy it again from its source, or take it out of the folder."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata that does not matter here
        try:
            with Image.open(io.BytesIO(content), formats=_formats()) as picture:
                _check_size(picture, name, len(content))
                frames = int(getattr(picture, "n_frames", 1))
                picture.load()
                _turn_upright(picture)
                return _to_srgb(picture), frames
        except ApdmError:
            raise
        except MemoryError as error:
            raise _too_large(name, "not enough memory") from error
        except Image.DecompressionBombError as error:
            raise _too_large(name, str(error)) from error
        except Image.UnidentifiedImageError as error:
            raise ApdmError(
                f"{name} is not a picture that can be read",
                "Save it again as jpg or png, or take it out of the folder.",
            ) from error
        except Exception as error:
            # Decoders raise nearly anything on damaged input (OSError, SyntaxError, ValueError,
            # struct.error, ...). Whatever it was, the file is what is wrong.
            raise ApdmError(
                f"{name} is damaged or incomplete ({_first_line(error)})",
                "Copy it again from its source, or take it out of the folder.",
            ) from error


def square(
    picture: Image.Image, resolution: int, crop: Crop = "center", at: float = 0.5
) -> Image.Image:
    """A square of `resolution` pixels, antialiased: `cut`, where it lies aside."""
    return cut(picture, (resolution, resolution), crop, at)[0]


def cut(
    picture: Image.Image, size: tuple[int, int], crop: Crop = "center", at: float = 0.5
) -> tuple[Image.Image, tuple[int, int]]:
    """A rectangle of `size` (width, height), antialiased, and its corner (left, top).

    "center" and "face": `picture` is rescaled until it just covers the rectangle, which is cut out
    in the middle, or around the middle of the largest square that lies at `at` (0 the left or top,
    1 the right or bottom; see `faces.place_of_face`). The corner is in pixels of what was rescaled.
    "none": `picture` is rescaled until it just fits, and the rest is padded with white, as
    transparent parts are; nothing is cut off, so that the corner is (0, 0).
    """
    if crop == "none":
        return ImageOps.pad(picture, size, Image.Resampling.LANCZOS, color="white"), (0, 0)
    width, height = picture.size
    scale = max(size[0] / width, size[1] / height)
    whole = (max(size[0], round(width * scale)), max(size[1], round(height * scale)))
    resized = picture.resize(whole, Image.Resampling.LANCZOS)
    longer, side = (0 if width >= height else 1), min(whole)
    start = [(whole[axis] - size[axis]) / 2 for axis in (0, 1)]
    start[longer] = at * (whole[longer] - side) + (side - size[longer]) / 2
    left, top = (int(min(max(start[i], 0), whole[i] - size[i])) for i in (0, 1))
    return resized.crop((left, top, left + size[0], top + size[1])), (left, top)


def cropped_share(size: tuple[int, int]) -> float:
    """Which share of a picture of that size `square` cuts away, 0 to 1."""
    return 1 - min(size) / max(size)


def _formats() -> tuple[str, ...]:
    if not heif_is_here():
        return _FORMATS
    from pillow_heif import register_heif_opener

    register_heif_opener(thumbnails=False)
    return (*_FORMATS, "HEIF")


def _check_size(picture: Image.Image, name: str, file_bytes: int) -> None:
    width, height = picture.size
    shape = f"{width}x{height} pixels"
    if width * height > MAX_PIXELS:
        raise _too_large(name, shape)
    if min(width, height) < MIN_SIDE:
        raise ApdmError(
            f"{name} is too small ({shape})",
            f"Use photos of at least {MIN_SIDE} pixels on each side.",
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ApdmError(
            f"{name} is too long and narrow ({shape})",
            "Only a square from its centre would be used: crop it to the subject yourself.",
        )
    cost = _bytes_per_pixel(picture)
    if cost * width * height + file_bytes > MAX_MEMORY:
        most = int((MAX_MEMORY - file_bytes) / cost / 1e6)
        raise _too_large(name, f"{shape} as {picture.format}", max(1, most))


def _bytes_per_pixel(picture: Image.Image) -> float:
    cost = _COST.get(picture.format or "", _COST_OF_OTHERS)
    if picture.has_transparency_data:
        cost += _COST_OF_ALPHA
    if picture.info.get("progressive"):  # a JPEG whose coefficients wait for the last scan
        cost += _COST_OF_PROGRESSIVE
    return cost


def _too_large(name: str, detail: str, most: int = MAX_PIXELS // 1_000_000) -> ApdmError:
    return ApdmError(
        f"{name} is too large to be decoded safely ({detail})",
        f"Make it smaller: at most {most} million pixels.",
    )


def _turn_upright(picture: Image.Image) -> None:
    """In place, so that a large photo is not in memory twice."""
    with contextlib.suppress(Exception):  # unreadable EXIF: the picture as stored is the best guess
        ImageOps.exif_transpose(picture, in_place=True)


def _to_srgb(picture: Image.Image) -> Image.Image:
    profile = picture.info.get("icc_profile")
    if picture.mode in _SIXTEEN_BIT or picture.mode == "F":
        picture = _to_eight_bits(picture)
    alpha = None
    if picture.has_transparency_data:
        has_colour = picture.mode not in ("L", "LA", "La")
        picture = picture.convert("RGBA" if has_colour else "LA")
        alpha = picture.getchannel("A")
        picture = picture.convert("RGB" if has_colour else "L")
    elif picture.mode not in ("L", "RGB", "CMYK", "LAB"):
        picture = picture.convert("L" if picture.mode == "1" else "RGB")
    picture = _apply_profile(picture, profile)
    if alpha is not None:
        white = Image.new("RGB", picture.size, "white")
        white.paste(picture, mask=alpha)
        picture = white
    return picture


def _to_eight_bits(picture: Image.Image) -> Image.Image:
    """Grey pictures of 16 and more bits; `Image.convert` would clip them at 255 instead.

    In bands of rows, because the numbers of a whole picture would be several copies of it.
    """
    width, height = picture.size
    transparent = picture.info.get("transparency")
    see_through = isinstance(transparent, int)  # PNG: the one 16-bit value that is see-through
    grey = np.empty((height, width), np.uint8)
    alpha = np.empty((height, width), np.uint8) if see_through else None
    for top in range(0, height, _ROWS):
        bottom = min(height, top + _ROWS)
        values = np.asarray(picture.crop((0, top, width, bottom)), dtype=np.float32)
        grey[top:bottom] = np.rint(_scaled(values, picture.mode)).astype(np.uint8)
        if alpha is not None:
            alpha[top:bottom] = np.where(values == transparent, 0, 255)
    result = Image.fromarray(grey)
    if alpha is not None:
        result.putalpha(Image.fromarray(alpha))
    return result


def _scaled(values: np.ndarray, mode: str) -> np.ndarray:
    """`values` from 0 to 255. ValueError for numbers that no picture has."""
    if mode == "F":
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise ValueError("floating-point values outside 0..1")
        return values * np.float32(255)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("values outside 16 bits")
    return values / np.float32(257)  # 65535 = 255 * 257


def _apply_profile(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """sRGB by the embedded colour profile; without a usable one the numbers are taken as sRGB."""
    if profile:
        try:
            converted = ImageCms.profileToProfile(
                picture,
                ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                _SRGB,
                renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
                outputMode="RGB",
                flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
            )
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass  # a broken profile, or one for another colour space: it says nothing about these
        else:
            assert converted is not None  # only inPlace=True returns nothing
            return converted
    return picture.convert("RGB")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
