"""Pictures for the tests of the photos, and how to look at what became of them."""

import errno
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from apdm_cli.diffusion.photos import Photos, load_photos

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
CLOSE = 4  # of 255: what a JPEG or a colour profile may be off


def quadrants(size: int = 64) -> Image.Image:
    """Red and green above, blue and white below: tells every flip and turn apart."""
    picture = Image.new("RGB", (size, size))
    half = size // 2
    for place, colour in {
        (0, 0): RED,
        (half, 0): GREEN,
        (0, half): BLUE,
        (half, half): WHITE,
    }.items():
        picture.paste(colour, (*place, place[0] + half, place[1] + half))
    return picture


def close(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Refuse to open the file or list the folder of that name, as the system does to others."""

    def refusing(original: Callable[..., Any]) -> Callable[..., Any]:
        def opened(path: Any, *rest: Any, **options: Any) -> Any:
            if Path(path).name == name:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return original(path, *rest, **options)

        return opened

    monkeypatch.setattr(os, "open", refusing(os.open))
    monkeypatch.setattr(Path, "iterdir", refusing(Path.iterdir))


def load(path: Path, resolution: int = 32) -> Photos:
    return load_photos([path], resolution)


def at(photos: Photos, x: float, y: float) -> list[int]:
    """The colour (0..255) at a relative place of the first photo."""
    size = photos.pixels.shape[-1]
    values = photos.pixels[0, :, int(y * size), int(x * size)]
    return ((values + 1) * 127.5).round().int().tolist()


def assert_colour(
    photos: Photos, expected: Sequence[int], x: float = 0.5, y: float = 0.5, within: int = CLOSE
):
    found = at(photos, x, y)
    assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) <= within, found


def assert_quadrants(photos: Photos) -> None:
    for x, y, colour in [(0.25, 0.25, RED), (0.75, 0.25, GREEN), (0.25, 0.75, BLUE)]:
        assert_colour(photos, colour, x, y)
    assert_colour(photos, WHITE, 0.75, 0.75)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(values: np.ndarray, colour_type: int, extra: bytes = b"") -> bytes:
    """A 16-bit PNG of (H, W, channels); Pillow itself writes none in colour."""
    height, width, _ = values.shape
    rows = b"".join(b"\x00" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    parts = [
        chunk(b"IHDR", header),
        extra,
        chunk(b"IDAT", zlib.compress(rows)),
        chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
