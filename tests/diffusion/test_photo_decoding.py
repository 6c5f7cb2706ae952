"""Every kind of picture file ends as upright sRGB on white, square."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from apdm_cli.diffusion import photo_decoding
from apdm_cli.diffusion.photo_decoding import decode_picture, square
from apdm_cli.errors import ApdmError
from tests.diffusion.photo_samples import (
    BLUE,
    GREEN,
    RED,
    WHITE,
    assert_colour,
    assert_quadrants,
    chunk,
    load,
    png,
    quadrants,
)


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff"])
def test_every_format(tmp_path, suffix):
    options = {"lossless": True} if suffix == "webp" else {"subsampling": 0, "quality": 95}
    quadrants().save(tmp_path / f"a.{suffix}", **options)
    assert_quadrants(load(tmp_path))


TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_exif_orientation(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = quadrants().transpose(TURNS[orientation])
    stored.save(tmp_path / f"a.{suffix}", exif=exif, quality=95)
    assert_quadrants(load(tmp_path))


def test_broken_exif_does_not_cost_the_photo(tmp_path):
    quadrants().save(tmp_path / "a.jpg", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7f", quality=95)
    assert_quadrants(load(tmp_path))


def test_cmyk_without_profile(tmp_path):
    quadrants().convert("CMYK").save(tmp_path / "a.jpg", subsampling=0, quality=95)
    assert_quadrants(load(tmp_path))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_alpha_on_white(tmp_path, mode):
    picture = Image.new("RGBA", (32, 32), (0, 0, 0, 255))
    picture.paste((0, 0, 0, 0), (16, 0, 32, 16))
    picture.paste((0, 0, 0, 128), (0, 16, 16, 32))
    if mode == "PA":
        mode, suffix = "RGBA", "webp"  # the other format with alpha
    else:
        suffix = "png"
    picture.convert(mode).save(tmp_path / f"a.{suffix}", lossless=True)
    photos = load(tmp_path)
    assert_colour(photos, (0, 0, 0), 0.25, 0.25, within=0)
    assert_colour(photos, WHITE, 0.75, 0.25, within=0)
    assert_colour(photos, (127, 127, 127), 0.25, 0.75, within=1)


def test_hidden_colours_below_alpha_do_not_bleed(tmp_path):
    picture = Image.new("RGBA", (64, 64), (255, 0, 255, 0))
    picture.paste((255, 255, 255, 255), (32, 0, 64, 64))
    picture.save(tmp_path / "a.png")
    assert load(tmp_path, 16).pixels.min() == 1


def test_palette_with_transparency(tmp_path):
    picture = quadrants().quantize(4)
    red = picture.getpixel((2, 2))
    picture.save(tmp_path / "a.png", transparency=red)
    photos = load(tmp_path)
    assert_colour(photos, WHITE, 0.25, 0.25)
    assert_colour(photos, GREEN, 0.75, 0.25)


def test_transparent_colour_of_an_rgb_png(tmp_path):
    quadrants().save(tmp_path / "a.png", transparency=RED)
    photos = load(tmp_path)
    assert_colour(photos, WHITE, 0.25, 0.25)
    assert_colour(photos, BLUE, 0.25, 0.75)


def test_black_and_white(tmp_path):
    picture = Image.new("1", (32, 32), 0)
    picture.paste(1, (16, 0, 32, 32))
    picture.save(tmp_path / "a.png")
    photos = load(tmp_path)
    assert_colour(photos, (0, 0, 0), 0.25, within=0)
    assert_colour(photos, WHITE, 0.75, within=0)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize(("value", "expected"), [(0, 0), (300, 1), (32896, 128), (65535, 255)])
def test_sixteen_bit_grey(tmp_path, suffix, value, expected):
    Image.fromarray(np.full((20, 20), value, np.uint16)).save(tmp_path / f"a.{suffix}")
    assert_colour(load(tmp_path), (expected,) * 3, within=0)


def test_sixteen_bit_grey_with_a_transparent_value(tmp_path):
    values = np.zeros((32, 32), np.uint16)
    values[:, 16:] = 1000
    content = png(values[..., None], colour_type=0, extra=chunk(b"tRNS", struct.pack(">H", 1000)))
    (tmp_path / "a.png").write_bytes(content)
    photos = load(tmp_path)
    assert_colour(photos, (0, 0, 0), 0.25, within=0)
    assert_colour(photos, WHITE, 0.75, within=0)


def test_sixteen_bit_rgb_png(tmp_path):
    values = np.tile(np.array([65535, 32896, 0], np.uint16), (32, 32, 1))
    (tmp_path / "a.png").write_bytes(png(values, colour_type=2))
    assert_colour(load(tmp_path), (255, 128, 0), within=0)


def test_float_tiff(tmp_path):
    Image.fromarray(np.full((20, 20), 0.5, np.float32)).save(tmp_path / "a.tif")
    assert_colour(load(tmp_path), (128, 128, 128), within=0)
    Image.fromarray(np.full((20, 20), 7.0, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ApdmError, match=r"a\.tif"):
        load(tmp_path)


def test_lab_tiff(tmp_path):
    # A colour well inside the gamut: at its corners eight bits of LAB are too coarse to compare.
    to_lab = ImageCms.profileToProfile(
        Image.new("RGB", (32, 32), (140, 90, 60)),
        ImageCms.createProfile("sRGB"),
        ImageCms.createProfile("LAB"),
        outputMode="LAB",
    )
    assert to_lab is not None
    to_lab.save(tmp_path / "a.tif")
    assert_colour(load(tmp_path), (140, 90, 60))


def swapped_profile() -> bytes:
    """A matrix profile with the red and the blue primary exchanged: nobody can miss its effect."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return (
        profile.replace(b"rXYZ", b"?XYZ", 1)
        .replace(b"bXYZ", b"rXYZ", 1)
        .replace(b"?XYZ", b"bXYZ", 1)
    )


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_colour_profile(tmp_path, suffix):
    options = {"lossless": True} if suffix == "webp" else {"subsampling": 0, "quality": 95}
    picture = Image.new("RGB", (32, 32), (200, 20, 20))
    picture.save(tmp_path / f"a.{suffix}", icc_profile=swapped_profile(), **options)
    assert_colour(load(tmp_path), (20, 20, 200))


def test_colour_profile_and_alpha_and_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.new("RGBA", (32, 32), (200, 20, 20, 255))
    picture.paste((0, 0, 0, 0), (0, 0, 32, 16))
    picture.transpose(TURNS[6]).save(tmp_path / "a.png", exif=exif, icc_profile=swapped_profile())
    photos = load(tmp_path)
    assert_colour(photos, WHITE, 0.5, 0.25, within=0)
    assert_colour(photos, (20, 20, 200), 0.5, 0.75)


def test_colour_profile_of_a_palette(tmp_path):
    picture = Image.new("RGB", (32, 32), (200, 20, 20)).quantize(2)
    picture.save(tmp_path / "a.png", icc_profile=swapped_profile())
    assert_colour(load(tmp_path), (20, 20, 200))


@pytest.mark.parametrize("profile", [b"no profile at all", swapped_profile()[:200]])
def test_broken_profile_is_left_out(tmp_path, profile):
    quadrants().save(tmp_path / "a.png", icc_profile=profile)
    assert_quadrants(load(tmp_path))


def test_profile_of_another_colour_space_is_left_out(tmp_path):
    quadrants().convert("CMYK").save(
        tmp_path / "a.jpg", icc_profile=swapped_profile(), subsampling=0, quality=95
    )
    assert_quadrants(load(tmp_path))


def test_the_first_of_several_frames(tmp_path):
    other = Image.new("RGB", (64, 64), "black")
    quadrants().save(tmp_path / "a.tif", save_all=True, append_images=[other])
    assert_quadrants(load(tmp_path))


@pytest.mark.parametrize("size", [(96, 32), (32, 96), (33, 32), (100, 301)])
def test_shortest_side_then_the_centre(size):
    picture = Image.new("RGB", size, RED)
    width, height = size
    side = min(size)
    left, top = (width - side) // 2, (height - side) // 2
    picture.paste(GREEN, (left, top, left + side, top + side))
    cropped = np.asarray(square(picture, 16))
    assert cropped.shape == (16, 16, 3)
    inner = cropped[2:-2, 2:-2].reshape(-1, 3)
    assert (np.abs(inner.astype(int) - GREEN) <= 8).all()


def test_resizing_is_antialiased():
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    small = np.asarray(square(Image.fromarray(stripes), 32))
    assert abs(small.astype(int) - 127).max() <= 6  # nearest or bilinear point sampling: 0 or 255


def test_a_picture_of_the_right_size_is_not_touched():
    picture = quadrants(32)
    assert np.array_equal(np.asarray(square(picture, 32)), np.asarray(picture))


@pytest.mark.parametrize("value", [-1, 65536])
def test_numbers_of_more_than_sixteen_bits_are_refused(tmp_path, value):
    values = np.full((20, 20), 65535, np.int32)
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert_colour(load(tmp_path), WHITE, within=0)
    values[3, 4] = value
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(ApdmError, match=r"a\.tif .*values outside 16 bits"):
        load(tmp_path)


def test_what_would_need_too_much_memory_is_refused_by_its_header(tmp_path):
    header = struct.pack(">IIBBBBB", 10_000, 9_000, 8, 6, 0, 0, 0)  # RGBA: 15.5 bytes per pixel
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")
    with pytest.raises(
        ApdmError, match=r"a\.png is too large .*10000x9000 pixels as PNG"
    ) as caught:
        decode_picture(content, "a.png")
    assert caught.value.hint == "Make it smaller: at most 83 million pixels."


def test_a_progressive_jpeg_costs_more_memory(monkeypatch):
    def jpeg(**options):
        content = io.BytesIO()
        quadrants().save(content, "JPEG", **options)
        return content.getvalue()

    monkeypatch.setattr(photo_decoding, "MAX_MEMORY", 11 * 64 * 64 + 2000)
    assert decode_picture(jpeg(), "a.jpg").size == (64, 64)
    with pytest.raises(ApdmError, match=r"a\.jpg is too large .*64x64 pixels as JPEG"):
        decode_picture(jpeg(progressive=True), "a.jpg")


def test_memory_that_runs_out_while_decoding_is_said(monkeypatch):
    def run_out(self):
        raise MemoryError

    content = io.BytesIO()
    quadrants().save(content, "BMP")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", run_out)
    with pytest.raises(ApdmError, match=r"a\.bmp is too large .*not enough memory"):
        decode_picture(content.getvalue(), "a.bmp")
