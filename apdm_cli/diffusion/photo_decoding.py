"""From the bytes of one picture file to an upright 8-bit sRGB picture, and to a square."""

from __future__ import annotations

import contextlib
import io
import warnings

import numpy as np
from PIL import Image, ImageCms, ImageOps

from apdm_cli.errors import ApdmError

# More than cameras take (150 megapixels are 450 MB as RGB); a decompression bomb claims far more
# in a few kilobytes. Below the number at which Pillow refuses by itself.
MAX_PIXELS = 150_000_000
MIN_SIDE = 16
MAX_ASPECT = 10.0

# Named, because Pillow would otherwise also start Ghostscript and other decoders for a file
# that merely has the suffix of a photo.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
_SRGB = ImageCms.createProfile("sRGB")
_SIXTEEN_BIT = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I"})


def decode_picture(content: bytes, name: str) -> Image.Image:
    """Decode `content` to mode RGB, sRGB, upright, transparent parts on white.

    Raises `ApdmError`, which names `name`, when it is no picture, is damaged, is too large to be
    decoded safely, or has a shape of which a square crop would show next to nothing.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata that does not matter here
        try:
            with Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
                _check_size(picture, name)
                picture.load()
                return _to_srgb(_upright(picture))
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


def square(picture: Image.Image, resolution: int) -> Image.Image:
    """Resize the shortest side to `resolution` pixels (antialiased), then crop the centre."""
    width, height = picture.size
    scale = resolution / min(width, height)
    size = (max(resolution, round(width * scale)), max(resolution, round(height * scale)))
    resized = picture.resize(size, Image.Resampling.LANCZOS)
    left, top = (size[0] - resolution) // 2, (size[1] - resolution) // 2
    return resized.crop((left, top, left + resolution, top + resolution))


def _check_size(picture: Image.Image, name: str) -> None:
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


def _too_large(name: str, detail: str) -> ApdmError:
    return ApdmError(
        f"{name} is too large to be decoded safely ({detail})",
        f"Make it smaller: at most {MAX_PIXELS // 1_000_000} million pixels.",
    )


def _upright(picture: Image.Image) -> Image.Image:
    with contextlib.suppress(Exception):  # unreadable EXIF: the picture as stored is the best guess
        return ImageOps.exif_transpose(picture)
    return picture


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
    """Grey pictures of 16 and more bits; `Image.convert` would clip them at 255 instead."""
    values = np.asarray(picture, dtype=np.float32)
    if picture.mode == "F":
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise ValueError("floating-point values outside 0..1")
        scaled = values * np.float32(255)
    else:
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("values outside 16 bits")
        scaled = values / np.float32(257)  # 65535 = 255 * 257
    grey = Image.fromarray(np.rint(scaled).astype(np.uint8))
    transparent = picture.info.get("transparency")
    if isinstance(transparent, int):  # PNG: the one 16-bit value that is see-through
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


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
