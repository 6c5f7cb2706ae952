"""The photos of a folder as one tensor; what is refused, and what is warned of."""

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from apdm_cli.diffusion import photo_decoding
from apdm_cli.diffusion.photos import Photos
from apdm_cli.errors import ApdmError
from tests.diffusion.photo_samples import chunk, load, quadrants


def test_shape_type_and_range(tmp_path):
    for number in (10, 9):
        quadrants().save(tmp_path / f"{number}.png")
    photos = load(tmp_path, 24)
    assert photos.names == ("9.png", "10.png")
    assert photos.pixels.shape == (2, 3, 24, 24)
    assert photos.pixels.dtype == torch.float32
    assert photos.pixels.min() == -1 and photos.pixels.max() == 1
    assert len(photos) == 2 and len(photos.sha256[0]) == 64


# What cannot be used: one message with the file and what to do.


def refused(folder: Path) -> ApdmError:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing of Pillow's reaches the user
        with pytest.raises(ApdmError) as caught:
            load(folder)
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tif"])
def test_truncated(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix))
    (tmp_path / f"half.{suffix}").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    assert f"half.{suffix}" in refused(tmp_path).what


def eps() -> bytes:
    """A program for Ghostscript, which Pillow would start if it were asked to read any format."""
    buffer = io.BytesIO()
    quadrants().save(buffer, "EPS")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "empty"), (b"<html>not found</html>", "not a picture"), (eps(), "not a picture")],
    ids=["empty", "html", "eps"],
)
def test_no_picture(tmp_path, content, said):
    (tmp_path / "page.jpg").write_bytes(content)
    assert f"page.jpg is {said}" in refused(tmp_path).what


@pytest.mark.parametrize(
    ("size", "said"), [((1, 1), "small"), ((15, 400), "small"), ((16, 161), "narrow")]
)
def test_useless_shapes(tmp_path, size, said):
    Image.new("RGB", size).save(tmp_path / "tiny.png")
    assert said in refused(tmp_path).what


@pytest.mark.parametrize("side", [11_000, 40_000])  # Pillow warns of the first, refuses the second
def test_decompression_bomb(tmp_path, side, monkeypatch):
    monkeypatch.setattr(photo_decoding, "MAX_PIXELS", 100_000_000)
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0"))
    (tmp_path / "bomb.png").write_bytes(content)
    assert "bomb.png is too large" in refused(tmp_path).what


def test_a_large_photo_below_the_limit_warns_of_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    quadrants(40).save(tmp_path / "a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(tmp_path)


# Warnings


def said(photos: Photos) -> str:
    return "\n".join(photos.warnings)


def test_nothing_to_warn_of(tmp_path):
    for number in range(2):
        Image.new("RGB", (40, 40), (number, 0, 0)).save(tmp_path / f"{number}.png")
    assert load(tmp_path).warnings == ()


def test_one_photo_warns(tmp_path):
    quadrants().save(tmp_path / "a.png")
    assert "Only one photo (a.png)" in said(load(tmp_path))


def test_identical_content_warns_and_counts_twice(tmp_path):
    for name in ("a.png", "copy.png"):
        quadrants().save(tmp_path / name)
    photos = load(tmp_path)
    assert "a.png, copy.png have identical content" in said(photos)
    assert len(photos) == 2 and photos.sha256[0] == photos.sha256[1]


def test_ignored_files_and_enlarged_photos_are_said(tmp_path):
    quadrants(20).save(tmp_path / "a.png")
    (tmp_path / "b.txt").touch()
    photos = load(tmp_path, 32)
    assert [entry.name for entry in photos.ignored] == ["b.txt"]
    assert "1 ignored" in said(photos)
    assert "a.png is smaller than the model's 32 pixels" in said(photos)
