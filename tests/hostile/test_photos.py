"""Photos: damaged, lying, huge, of any kind; each becomes an RGB picture or a refusal by name."""

from __future__ import annotations

import io
import os
import shutil
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from apdm_cli.diffusion.photo_decoding import cropped_share, decode_first, decode_picture, square
from apdm_cli.diffusion.photo_files import OTHER_PICTURES, find_photos
from apdm_cli.diffusion.photo_opening import MAX_BYTES
from apdm_cli.diffusion.photos import Photos, load_photos
from apdm_cli.errors import ApdmError
from tests.diffusion.photo_samples import assert_colour, chunk, load, quadrants
from tests.hostile.counting import hostile, tried
from tests.hostile.inputs import TEXTS, Tally, damaged, pictures

SAMPLES = pictures()
PER_FORMAT = 90


@hostile("photos", "decode_picture")
@pytest.mark.parametrize("ending", SAMPLES)
def test_damaged_pictures(ending: str) -> None:
    tally = Tally()
    for name, content in damaged(SAMPLES[ending], PER_FORMAT, seed=len(ending)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            picture = tally.offer(name, decode_picture, content, f"a.{ending}")
        if picture is not None:
            assert picture.mode == "RGB" and min(picture.size) >= 16
            assert np.asarray(picture).shape[2] == 3
    assert not tally.failed, tally.failed[:5]
    assert tally.refused and len(tally) == PER_FORMAT


@hostile("photos", "decode_picture")
@pytest.mark.parametrize("ending", sorted(set(SAMPLES) - {"jp2", "ppm", "avif"}))
def test_half_a_picture_is_never_used(ending: str) -> None:
    content = SAMPLES[ending]
    for part in range(1, 8):
        tried()
        with pytest.raises(ApdmError, match=rf"a\.{ending}"):
            decode_picture(content[: len(content) * part // 10], f"a.{ending}")


@pytest.mark.parametrize("ending", SAMPLES)
def test_every_ending_of_every_format_is_read(tmp_path: Path, ending: str) -> None:
    from apdm_cli.diffusion.photo_files import ENDINGS

    same = next(endings for endings in ENDINGS.values() if f".{ending}" in endings)
    for number, other in enumerate(same):
        (tmp_path / f"{number}{other.upper()}").write_bytes(SAMPLES[ending])
    photos = load(tmp_path)
    assert len(photos) == len(same) and not photos.ignored


@hostile("photos", "decode_picture")
def test_heic_with_its_package(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(quadrants()).save(tmp_path / "a.heic", quality=95)
    shutil.copy(tmp_path / "a.heic", tmp_path / "b.HIF")
    photos = load(tmp_path)
    assert photos.names == ("a.heic", "b.HIF")
    assert_colour(photos, (255, 0, 0), 0.25, 0.25, within=24)
    assert_colour(photos, (0, 255, 0), 0.75, 0.25, within=24)
    content, tally = (tmp_path / "a.heic").read_bytes(), Tally()
    for name, bad in damaged(content, PER_FORMAT, seed=1):
        tally.offer(name, decode_picture, bad, "a.heic")
    assert not tally.failed and tally.refused


@hostile("photos", "decode_picture")
def test_heic_without_its_package_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    content = io.BytesIO()
    pillow_heif.from_pillow(quadrants()).save(content)
    monkeypatch.setattr("apdm_cli.diffusion.photo_decoding.heif_is_here", lambda: False)
    with pytest.raises(ApdmError, match=r"a\.heic is not a picture that can be read"):
        decode_picture(content.getvalue(), "a.heic")


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A folder with one good photo."""
    quadrants().save(tmp_path / "good.png")
    return tmp_path


@hostile("photos", "load_photos")
@pytest.mark.parametrize("ending", [*sorted(OTHER_PICTURES)[:6], ".HEIC"])
def test_pictures_that_cannot_be_read_are_not_left_out_silently(
    good: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apdm_cli.diffusion.photo_files.heif_is_here", lambda: False)
    (good / f"holiday{ending}").write_bytes(b"something")
    with pytest.raises(ApdmError, match=f"holiday{ending}") as caught:
        load(good)
    assert "--ignore-unreadable" in caught.value.hint
    photos = load_photos([good], 32, ignore_unreadable=True)
    assert photos.names == ("good.png",)
    assert f"holiday{ending}" in photos.warnings[-1]
    with pytest.raises(ApdmError, match=r"No photos|not a photo"):
        load_photos([good / f"holiday{ending}"], 32, ignore_unreadable=True)


@hostile("photos", "load_photos")
def test_damaged_files_are_left_out_by_name_where_that_is_asked_for(good: Path) -> None:
    whole = (good / "good.png").read_bytes()
    for number in range(12):
        (good / f"a{number}.png").write_bytes(whole[: len(whole) // 2])
    (good / "b.jpg").write_text("no picture")
    Image.new("RGB", (8, 8)).save(good / "c.png")
    with pytest.raises(ApdmError, match=r"a0\.png is damaged"):
        load(good)
    photos = load_photos([good], 32, ignore_unreadable=True)
    assert photos.names == ("good.png",)
    left_out = [one for one in photos.warnings if "stays unprotected: " in one]
    assert [one.split()[0] for one in left_out] == [f"a{number}.png" for number in range(10)]
    assert all("left out, and stays unprotected: damaged or incomplete (" in o for o in left_out)
    more = photos.warnings[-1]
    assert more.startswith("4 more are left out") and "a11.png (damaged" in more
    assert "b.jpg (not a picture that can be read)" in more and "c.png (too small" in more

    (good / "good.png").unlink()
    with pytest.raises(ApdmError, match=r"No photo can be read: a0\.png \(damaged"):
        load_photos([good], 32, ignore_unreadable=True)


@hostile("photos", "load_photos")
@pytest.mark.parametrize("ending", sorted(set(SAMPLES) - {"ppm", "bmp"}))  # begin as texts may
@pytest.mark.parametrize("name", ["IMG_0001", "photo.jpg_original", "photo.bak"])
def test_pictures_under_other_endings_are_seen(good: Path, ending: str, name: str) -> None:
    (good / name).write_bytes(SAMPLES[ending])
    with pytest.raises(ApdmError, match="by its content"):
        find_photos([good])


@hostile("photos", "load_photos")
def test_what_is_ignored_is_named_file_by_file(good: Path) -> None:
    for name in ("notes.txt", "IMG_1.MOV", "a\nb.json", ".DS_Store"):
        (good / name).write_bytes(b"x")
    (good / "below").mkdir()
    said = load(good).warnings[-1]
    for name in ("notes.txt", "IMG_1.MOV", "a\\nb.json", ".DS_Store", "below (a folder"):
        assert name in said


def test_the_first_picture_of_an_animation_is_said(good: Path) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue", "green")]
    frames[0].save(good / "z.gif", save_all=True, append_images=frames[1:])
    photos = load(good)
    assert any("first picture is used of z.gif (3)" in sentence for sentence in photos.warnings)
    picture, count = decode_first((good / "z.gif").read_bytes(), "z.gif")
    assert count == 3 and picture.getpixel((3, 3)) == (255, 0, 0)


# Cropping


def wide(folder: Path, size: tuple[int, int] = (640, 256)) -> Path:
    """A person in green at the left edge."""
    picture = Image.new("RGB", size, "red")
    picture.paste((0, 255, 0), (0, 0, size[0] // 8, size[1]))
    picture.save(folder / "wide.png")
    return folder


def test_much_that_is_cropped_away_is_said_with_its_name(tmp_path: Path) -> None:
    (sentence,) = [one for one in load(wide(tmp_path)).warnings if "cropped" in one]
    assert "wide.png (60%)" in sentence and "--crop none" in sentence


def test_a_usual_photo_is_not_complained_of(tmp_path: Path) -> None:
    wide(tmp_path, (400, 300))
    assert not any("cropped" in sentence for sentence in load(tmp_path).warnings)
    assert cropped_share((400, 300)) == pytest.approx(0.25)


def test_without_a_crop_all_of_the_photo_is_there(tmp_path: Path) -> None:
    photos = load_photos([wide(tmp_path)], 64, crop="none")
    assert photos.crop == "none" and not any("cropped" in one for one in photos.warnings)
    assert_colour(photos, (0, 255, 0), x=0.03)
    assert_colour(photos, (255, 0, 0), x=0.97)
    assert_colour(photos, (255, 255, 255), y=0.05)
    assert_colour(photos, (255, 255, 255), y=0.95)
    centre = load_photos([tmp_path], 64)
    assert_colour(centre, (255, 0, 0), x=0.03)  # the person is gone


@pytest.mark.parametrize("size", [(16, 160), (160, 16), (33, 32), (1, 1), (5, 7)])
@pytest.mark.parametrize("crop", ["center", "none"])
def test_squares_of_any_shape(size: tuple[int, int], crop: str) -> None:
    assert square(Image.new("RGB", size), 24, crop).size == (24, 24)  # type: ignore[arg-type]


# Sizes that lie


@hostile("photos", "decode_picture")
@pytest.mark.parametrize("side", [1, 15, 12_248, 60_000, 2**31 - 1])
@pytest.mark.parametrize("depth", [1, 8, 16])
@pytest.mark.parametrize("colour", [0, 2, 3, 4, 6])
def test_headers_that_claim_any_size(side: int, depth: int, colour: int) -> None:
    header = struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0"))
    with pytest.raises(ApdmError, match=r"a\.png"):
        decode_picture(content, "a.png")


@hostile("photos", "load_photos")
def test_a_sparse_file_is_not_read(good: Path) -> None:
    with (good / "a.png").open("wb") as file:
        file.truncate(5 * 2**30)
    with pytest.raises(ApdmError, match=r"a\.png is too large .*5120 MiB"):
        load(good)
    assert MAX_BYTES < 2**29


@hostile("photos", "load_photos")
def test_a_photo_that_changes_while_it_is_read(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from apdm_cli.diffusion import photos as module

    before = module.hash_photo_files

    def then_changed(files: list[Path]):
        found = before(files)
        quadrants(40).save(good / "good.png")
        return found

    monkeypatch.setattr(module, "hash_photo_files", then_changed)
    with pytest.raises(ApdmError, match=r"good\.png was changed"):
        load(good)

    def then_gone(files: list[Path]):
        found = before(files)
        (good / "good.png").unlink()
        return found

    monkeypatch.setattr(module, "hash_photo_files", then_gone)
    with pytest.raises(ApdmError, match=r"good\.png cannot be read: No such file"):
        load(good)


@hostile("photos", "load_photos")
@pytest.mark.parametrize("after", ["find_photos", "hash_readable"])
def test_a_photo_that_is_gone_since_it_was_found_is_left_out(
    good: Path, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apdm_cli.diffusion import photos as module

    quadrants().save(good / "b.png")
    before = getattr(module, after)

    def then_gone(*given: Any, **options: Any) -> Any:
        found = before(*given, **options)
        (good / "b.png").unlink()
        return found

    monkeypatch.setattr(module, after, then_gone)
    photos = load_photos([good], 32, ignore_unreadable=True)
    assert photos.names == ("good.png",)
    assert photos.warnings[-1] == (
        "b.png is left out, and stays unprotected: cannot be read (No such file or directory)."
    )


# Places


@hostile("photos", "load_photos")
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
@pytest.mark.parametrize("kind", ["pipe", "link to pipe", "device", "proc", "circle", "folder"])
def test_what_is_no_file_is_not_opened(good: Path, kind: str) -> None:
    """Opening one of these would block this test for ever."""
    place = good / "x.png"
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "link to pipe":
        os.mkfifo(good / "pipe")
        place.symlink_to(good / "pipe")
    elif kind == "device":
        place.symlink_to("/dev/zero")
    elif kind == "proc":
        place.symlink_to("/proc/self/fd/0")
    elif kind == "circle":
        place.symlink_to(place)
    else:
        place.mkdir()
    assert load(good).names == ("good.png",)
    with pytest.raises(ApdmError):
        load(place)


@hostile("photos", "load_photos")
def test_paths_of_every_kind(good: Path) -> None:
    tally = Tally()
    for text in TEXTS:
        tally.offer(repr(text[:20]), _load, good / "photos", text)
        tally.offer(repr(text[:20]), load, Path(text + "x"))
    assert not tally.failed, tally.failed[:5]
    assert not tally.used


@hostile("photos", "load_photos")
def test_file_names_of_every_kind(tmp_path: Path) -> None:
    made = 0
    for text in TEXTS:
        try:
            quadrants().save(tmp_path / f"{text.replace('/', '_')}.png")
        except (OSError, ValueError):
            continue
        made += 1
        tried()
    photos = load(tmp_path)
    hidden = [entry for entry in photos.ignored if entry.reason == "hidden"]
    assert len(photos) + len(hidden) == made > 30
    assert all(name.isprintable() or "\u200d" in name for name in photos.names)
    assert all(sentence.isprintable() or "\u200d" in sentence for sentence in photos.warnings)


@hostile("photos", "load_photos")
def test_numbers_of_any_length_are_ordered(tmp_path: Path) -> None:
    for name in ("9" * 200, "1" + "0" * 200, "007", "8"):
        quadrants().save(tmp_path / f"{name}.png")
    assert load(tmp_path).names == (
        "007.png",
        "8.png",
        "9" * 200 + ".png",
        "1" + "0" * 200 + ".png",
    )


def _load(folder: Path, text: str) -> Photos:
    return load(folder / text)
