"""Captions beside the photos, through `apdm attack`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from apdm_cli.diffusion.photo_files import photo_captions
from apdm_cli.errors import ApdmError, UsageError
from tests.harness.conftest import Place
from tests.harness.test_attack_command import attack, rows

OPTIONS = ("--plugin", "lora", "--set", "rank=2", "--set", "batch_size=4", "--no-control", "--json")


@pytest.fixture
def captioned(place: Place, tmp_path: Path) -> Place:
    photos = tmp_path / "photos"
    shutil.copytree(place.photos, photos)
    (photos / "0.txt").write_text("in red\n")
    (photos / "2.txt").write_text("portrait of [trigger] person,  blue hat")
    return place._replace(photos=photos)


def losses(path: str) -> str:
    return (Path(path) / "losses.jsonl").read_text()


def test_captions_are_read_in_the_order_of_the_photos(captioned: Place) -> None:
    assert photo_captions([captioned.photos]) == (
        "in red", "", "portrait of [trigger] person, blue hat",
    )  # fmt: skip
    (captioned.photos / "1.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ApdmError, match=r"1\.txt cannot be read as a caption"):
        photo_captions([captioned.photos])
    (captioned.photos / "1.txt").write_text("long " * 1000)
    with pytest.raises(ApdmError, match=r"1\.txt is too long"):
        photo_captions([captioned.photos])


def test_they_change_the_training_and_its_cell(captioned: Place) -> None:
    photos = ("--photos", str(captioned.photos))
    (plain,) = rows(attack(captioned, *OPTIONS, *photos))
    (first,) = rows(attack(captioned, *OPTIONS, *photos, "--set", "captions=true"))
    assert losses(plain["path"]) != losses(first["path"])
    (again,) = rows(attack(captioned, *OPTIONS, *photos, "--set", "captions=true"))
    assert (again["cell"], again["status"]) == (first["cell"], "cached")

    for name in ("0.txt", "2.txt"):
        (captioned.photos / name).write_text("on snow")
    (other,) = rows(attack(captioned, *OPTIONS, *photos, "--set", "captions=true"))
    assert other["status"] == "done" and losses(other["path"]) != losses(first["path"])
    texts = [file.read_text() for file in captioned.root.rglob("*.json")]
    assert not any("on snow" in text or "blue hat" in text for text in texts)


def test_an_attacker_may_have_the_first_photos_only(captioned: Place) -> None:
    photos = ("--photos", str(captioned.photos), "--set", "captions=true")
    one = ("--set", "photo_count=1")
    (first,) = rows(attack(captioned, *OPTIONS, *photos, *one))
    (again,) = rows(attack(captioned, *OPTIONS, *photos, "--set", "photo_count=2"))
    assert losses(first["path"]) != losses(again["path"])

    for name in ("1.png", "2.png"):
        (captioned.photos / name).unlink()
    (alone,) = rows(attack(captioned, *OPTIONS, *photos))
    assert losses(alone["path"]) == losses(first["path"])


def test_without_any_it_is_said(place: Place) -> None:
    with pytest.raises(UsageError, match=r"no \.txt lies beside any of the photos"):
        attack(place, *OPTIONS, "--set", "captions=true")
