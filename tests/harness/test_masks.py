"""Masks beside the photos, through `apdm attack`."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from apdm_cli.diffusion.latents import LatentDistribution
from apdm_cli.diffusion.photo_files import find_photos
from apdm_cli.diffusion.photos import load_masks, load_photos
from apdm_cli.errors import ApdmError, UsageError
from apdm_cli.harness.transforms import apply_transforms, transformed_masks
from apdm_cli.randomness import Streams
from tests.harness.conftest import Place
from tests.harness.test_attack_command import attack, rows

SETTINGS = ("lora.rank=2", "prior_weight=0", "batch_size=4")
OPTIONS = (
    *("--plugin", "lora", "--no-control", "--json"),
    *(part for setting in SETTINGS for part in ("--set", setting)),
)
MASKED = ("--set", "masks=true")


def draw_mask(photo: Path, box: tuple[float, float, float, float]) -> Path:
    """White between left, top, right and bottom, shares of the photo, and black elsewhere."""
    width, height = Image.open(photo).size
    values = np.zeros((height, width), np.uint8)
    left, top, right, bottom = box
    values[
        round(top * height) : round(bottom * height), round(left * width) : round(right * width)
    ] = 255
    file = photo.with_name(f"{photo.stem}-masklabel.png")
    Image.fromarray(values).save(file)
    return file


@pytest.fixture
def masked(place: Place, tmp_path: Path) -> Place:
    photos = tmp_path / "photos"
    shutil.copytree(place.photos, photos)
    draw_mask(photos / "0.png", (0, 0, 0.5, 1))
    draw_mask(photos / "2.png", (0, 0, 1, 0.25))
    return place._replace(photos=photos)


def losses(path: str) -> str:
    return (Path(path) / "losses.jsonl").read_text()


def test_masks_are_no_photos_and_lie_as_the_photos_do(masked: Place) -> None:
    files, ignored = find_photos([masked.photos])
    assert [file.name for file in files] == ["0.png", "1.png", "2.png"]
    assert {entry.name: entry.reason for entry in ignored} == {
        "0-masklabel.png": "the mask of a photo",
        "2-masklabel.png": "the mask of a photo",
    }
    first, none, last = load_masks([masked.photos], 8)[:, 0]
    assert torch.equal(first.round(), torch.tensor([[1.0] * 4 + [0.0] * 4] * 8))
    assert torch.equal(none, torch.ones(8, 8)), "without a mask all of it is the subject"
    assert last[:2].round().eq(1).all() and last[2:].round().eq(0).all()
    alone = masked.photos / "alone-masklabel.png"
    shutil.copy(masked.photos / "1.png", alone)
    assert alone in find_photos([masked.photos]).files, "there is no photo that it could be for"


def test_a_mask_is_cut_and_moved_with_its_photo(tmp_path: Path) -> None:
    """The photo shows its own mask: whatever happens to the one happens to the other."""
    photo = tmp_path / "wide.png"
    Image.new("RGB", (48, 32)).save(photo)
    shown = Image.open(draw_mask(photo, (0.25, 0, 0.6, 0.7))).convert("RGB")
    shown.save(photo)
    for crop in ("center", "none"):
        photos = load_photos([photo], 32, crop=crop)
        masks = load_masks([photo], 32, crop=crop)
        for names in ((), ("flip",), ("crop", "flip")):
            pixels = apply_transforms(photos.pixels, names, Streams(3)) / 2 + 0.5
            moved = transformed_masks(masks, (*names, "noise"), Streams(3))
            inside = slice(None) if crop == "center" else slice(6, 26)  # the rest is padding
            difference = (pixels[:, :1, inside] - moved[:, :, inside]).abs().max()
            assert difference < 0.01, (crop, names)
    assert load_masks([photo], 32, crop="none")[0, 0, :4].eq(0).all(), "padding is no subject"


def test_latents_are_weighed_by_their_area() -> None:
    latents = LatentDistribution.exact(torch.zeros(2, 4, 2, 2))
    mask = torch.zeros(2, 1, 8, 8)
    mask[1, 0, :4, :2] = 1
    found = latents.with_masks(mask)
    assert found.masks is not None
    assert found.masks[1, 0].tolist() == [[0.5, 0.0], [0.0, 0.0]]
    chosen = found.select([1]).masks
    assert chosen is not None and torch.equal(chosen, found.masks[1:])


def test_they_change_the_training_and_its_cell(masked: Place) -> None:
    photos = ("--photos", str(masked.photos))
    (plain,) = rows(attack(masked, *OPTIONS, *photos))
    before = ("--plugin", "dreambooth")  # whose photos, without masks, are kept for the next cell
    _, first = rows(attack(masked, *before, *OPTIONS, *photos, "--set", "lora.masks=true"))
    (sure,) = rows(attack(masked, *OPTIONS, *photos, *MASKED, "--set", "unmasked_weight=1"))
    assert losses(plain["path"]) == losses(sure["path"]) != losses(first["path"])

    for name in ("0.png", "1.png", "2.png"):
        draw_mask(masked.photos / name, (0.5, 0.5, 1, 1))
    (other,) = rows(attack(masked, *OPTIONS, *photos, *MASKED))
    assert other["status"] == "done" and losses(other["path"]) != losses(first["path"])
    (again,) = rows(attack(masked, *OPTIONS, *photos))
    assert (again["cell"], again["status"]) == (plain["cell"], "cached")
    assert not [file for file in masked.root.rglob("*masklabel*")]


def test_what_cannot_be_used_is_said(masked: Place, place: Place) -> None:
    Image.new("L", (40, 30)).save(masked.photos / "1-masklabel.png")
    with pytest.raises(ApdmError, match=r"1-masklabel\.png has another shape \(40x30 pixels\)"):
        load_masks([masked.photos], 8)
    with pytest.raises(UsageError, match="no mask lies beside any of the photos"):
        attack(place, *OPTIONS, *MASKED)
