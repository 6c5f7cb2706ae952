"""Photos that an attacker cuts in another way than the protector, through `apdm attack`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from apdm_cli.diffusion import faces, photos
from apdm_cli.diffusion.faces import Place as Square
from apdm_cli.diffusion.family import Family
from apdm_cli.errors import ApdmError, UsageError
from apdm_families.stable_diffusion import StableDiffusion
from tests.harness.conftest import Place
from tests.harness.test_attack_command import attack, rows
from tests.tiny import make_photos

OPTIONS = (
    *("--plugin", "lora", "--no-control", "--json"),
    *("--set", "rank=2", "--set", "prior_weight=0", "--set", "batch_size=4"),
)


@pytest.fixture
def wide(place: Place, tmp_path: Path) -> Place:
    """Photos of 96 by 40, 40 by 96, 64 by 64 and 48 by 64 pixels."""
    folder = make_photos(tmp_path / "photos", 4, side=96)
    for name, size in (("0", (96, 40)), ("1", (40, 96)), ("2", (64, 64)), ("3", (48, 64))):
        file = folder / f"{name}.png"
        Image.open(file).crop((0, 0, *size)).save(file)
    return place._replace(photos=folder)


def cell(place: Place, *arguments: str) -> dict[str, Any]:
    (row,) = rows(attack(place, *OPTIONS, "--photos", str(place.photos), *arguments))
    return row


def losses(row: dict[str, Any]) -> str:
    return (Path(row["path"]) / "losses.jsonl").read_text()


def recorded(row: dict[str, Any]) -> dict[str, Any]:
    manifest = json.loads((Path(row["path"]) / "manifest.json").read_text())
    return dict(manifest["subject"]["photos"])


def test_another_crop_is_another_cell_and_is_found_again(wide: Place) -> None:
    usual, padded = cell(wide), cell(wide, "--crop", "none")
    assert "crop none" in padded["variant"] and "crop" not in usual["variant"]
    assert losses(padded) != losses(usual)
    assert recorded(padded)["crop"] == "none" and "crop" not in recorded(usual)
    for before, options in ((usual, ("--crop", "center")), (padded, ("--crop", "none"))):
        again = cell(wide, *options)
        assert (again["cell"], again["status"]) == (before["cell"], "cached")


def test_an_entry_of_a_suite_says_how_its_photos_are_cut(wide: Place, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    crops = ("", 'crop = "none"', 'crop = "none"\nvariant = "padded"\nset = { buckets = 8 }')
    file.write_text("".join(f'[[attack]]\nname = "lora"\n{crop}\n' for crop in crops))
    suite = ("--suite", str(file), *OPTIONS[2:], "--photos", str(wide.photos))
    planned = rows(attack(wide, *suite, "--dry-run"))
    assert [cell["crop"] for cell in planned] == ["center", "none", "none"]
    usual, padded, named = rows(attack(wide, *suite))
    assert [cell["cell"] for cell in planned] == [row["cell"] for row in (usual, padded, named)]
    assert [row["variant"].split(", steps=2")[0] for row in (usual, padded, named)] == [
        "unseen photos",
        "unseen photos, crop none",
        "padded, unseen photos",
    ]
    assert [recorded(row).get("crop") for row in (usual, padded, named)] == [None, "none", "none"]
    assert len({losses(row) for row in (usual, padded, named)}) == 3
    alone = cell(wide, "--crop", "none")
    assert (alone["cell"], alone["status"]) == (padded["cell"], "cached"), "one key, one training"

    # What the command says holds for every entry: the first two are one cell.
    centred = rows(attack(wide, *suite, "--crop", "center"))
    assert [recorded(row).get("crop") for row in centred] == [None, None]
    assert (centred[0]["cell"], centred[0]["status"]) == (usual["cell"], "cached")


def test_an_entry_that_cuts_in_no_known_way_is_refused(wide: Place, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[[attack]]\ncrop = "left"\n')
    choices = "'usual', 'center', 'face' or 'none'"
    with pytest.raises(UsageError, match=f"crop: this has to be {choices}, got 'left'"):
        attack(wide, "--suite", str(file))


def test_a_suite_that_looks_for_faces_says_at_once_what_that_needs(
    wide: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faces, "find_spec", lambda name: None)
    file = tmp_path / "mine.toml"
    file.write_text('[[attack]]\ncrop = "face"\n')
    with pytest.raises(ApdmError, match="--crop face needs the package scikit-image"):
        attack(wide, "--suite", str(file))
    planned = attack(wide, "--suite", str(file), "--crop", "none", "--dry-run", "--json")
    assert "crop none" in planned.stdout, "nobody looks for faces any more"


def test_where_the_faces_are_is_found_once_and_kept(
    wide: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def beside(at: float, faces: int) -> None:
        def place_of_face(picture: Image.Image) -> Square:
            asked.append(picture.size)
            return Square(at, faces)

        monkeypatch.setattr(photos, "place_of_face", place_of_face)

    monkeypatch.setattr(faces, "require_detector", lambda: None)
    beside(0.75, 1)
    found = cell(wide, "--crop", "face")
    assert "crop face" in found["variant"]
    assert [file["at"] for file in recorded(found)["files"]] == [0.75, 0.75, 0.5, 0.75]
    assert asked == [(96, 40), (40, 96), (48, 64)], "once each, when the attack is planned"
    assert cell(wide, "--crop", "face")["status"] == "cached"

    beside(0.25, 0)
    result = attack(wide, *OPTIONS, "--photos", str(wide.photos), "--crop", "face")
    (other,) = rows(result)
    assert other["cell"] != found["cell"] and losses(other) != losses(found)
    assert "No face was found in 0.png, 1.png, 3.png" in " ".join(result.stderr.split())


def test_square_photos_in_buckets_are_what_they_were(place: Place) -> None:
    usual, same = cell(place), cell(place, "--set", "buckets=8")
    assert "buckets=8" in same["variant"] and same["cell"] != usual["cell"]
    assert losses(same) == losses(usual)


def test_buckets_change_the_training_of_others_with_their_masks(wide: Place) -> None:
    prior = ("--set", "prior_weight=1", "--set", "prior_pictures=1", "--set", "steps=4")
    found = [
        cell(wide, *prior, *options)
        for options in (
            (),
            ("--set", "buckets=8"),
            ("--set", "buckets=16"),
            ("--set", "buckets=8", "--transform", "crop", "--transform", "blur"),
        )
    ]
    assert {row["status"] for row in found} == {"done"}
    assert len({losses(row) for row in found}) == len({row["cell"] for row in found}) == 4
    again = cell(wide, *prior, "--set", "buckets=8")
    assert (again["cell"], again["status"]) == (found[1]["cell"], "cached")

    Image.new("L", (96, 40)).save(wide.photos / "0-masklabel.png")
    masked = cell(wide, *prior, "--set", "buckets=8", "--set", "masks=true")
    assert masked["status"] == "done" and losses(masked) != losses(found[1])


def test_sides_that_the_model_cannot_have_are_refused(
    wide: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = cell(wide, "--set", "buckets=12")
    assert refused["status"] == "failed"
    assert "buckets=12: sides of pictures for Stable Diffusion" in refused["error"]
    assert "multiples of 8 pixels, and one that divides its 32" in refused["error"]
    assert refused["hint"] == "Use 8 or 16."
    monkeypatch.setattr(StableDiffusion, "shape_step", Family.shape_step)
    refused = cell(wide, "--set", "buckets=8")
    assert "takes squares of one size only" in refused["error"]
