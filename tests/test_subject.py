"""A subject as a manifest keeps it, and its photos found again."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from apdm_cli.diffusion.photos import load_photos
from apdm_cli.errors import ApdmError
from apdm_cli.subject import Subject, SubjectRecord
from tests.tiny import make_photos


@pytest.fixture
def record(tmp_path: Path) -> SubjectRecord:
    folder = make_photos(tmp_path / "photos")
    return SubjectRecord.read("ann", "person", "sks", [folder])


def test_a_manifest_gives_it_back(record: SubjectRecord) -> None:
    written = record.as_manifest()
    assert list(written) == ["name", "class_noun", "identifier", "photos"]
    assert SubjectRecord.from_manifest(written) == record


def test_of_a_loaded_subject_it_is_the_same(record: SubjectRecord) -> None:
    photos = load_photos(record.sources, 32)
    assert SubjectRecord.of(Subject("ann", "person", "sks", photos), record.sources) == record


def test_it_loads_the_same_pixels(record: SubjectRecord) -> None:
    loaded = record.load(32)
    assert torch.equal(loaded.photos.pixels, load_photos(record.sources, 32).pixels)
    assert loaded.personal_prompt == "a photo of sks person"


def test_photos_that_moved_are_named(record: SubjectRecord, tmp_path: Path) -> None:
    moved = Path(shutil.move(tmp_path / "photos", tmp_path / "elsewhere"))
    for again in (record.found, lambda: record.load(32)):
        with pytest.raises(ApdmError, match=r"cannot be read again.*--photos"):
            again()
    assert record.found([moved]).files == record.files
    assert len(record.load(32, [moved]).photos) == 3


def test_what_was_damaged_from_the_beginning_is_no_photo_of_it(
    record: SubjectRecord, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    (folder / "00.png").write_bytes((folder / "0.png").read_bytes()[:50])
    (folder / "00.txt").write_text("damaged")
    (folder / "2.txt").write_text("smiling")
    found = record.found()
    assert found.files == record.files and len(record.load(32).photos) == 3
    # Everything that goes photo by photo goes by these.
    assert found.captions() == ("", "", "smiling")
    assert len(found.load(32).photos) == 3 and len(found.load_masks(32)) == 3
    assert found.found() == found
    # A recorded one that is damaged since is named.
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:50])
    for again in (record.found, lambda: record.load(32)):
        with pytest.raises(ApdmError, match=r"2 files instead of 3, and 00.png, 1.png cannot be"):
            again()


def test_other_content_under_the_same_names_is_refused(
    record: SubjectRecord, tmp_path: Path
) -> None:
    make_photos(tmp_path / "photos", seed=7)
    for again in (record.found, lambda: record.load(32)):
        with pytest.raises(ApdmError, match=r"have changed.*3 of 3 have another content"):
            again()
    for count, files in ((2, "2 files"), (1, "1 file")):
        (tmp_path / "photos" / f"{count}.png").unlink()
        with pytest.raises(ApdmError, match=f"{files} instead of 3"):
            record.found()


def test_a_manifest_without_photos_is_refused() -> None:
    with pytest.raises(ApdmError, match="does not say who its subject is"):
        SubjectRecord.from_manifest({"name": "ann", "class_noun": "person", "identifier": "sks"})


def test_another_crop_is_kept_and_used(tmp_path: Path) -> None:
    Image.new("RGB", (40, 24), "red").save(tmp_path / "wide.png")
    record = SubjectRecord.read("ann", "person", "sks", [tmp_path])
    assert "crop" not in record.as_manifest()["photos"], "as earlier versions wrote it"
    whole = replace(record, crop="none")
    written = whole.as_manifest()
    assert written["photos"]["crop"] == "none"
    assert SubjectRecord.from_manifest(written) == whole
    photos = load_photos(record.sources, 32, crop="none")
    assert torch.equal(whole.load(32).photos.pixels, photos.pixels)
    assert not torch.equal(record.load(32).photos.pixels, photos.pixels)
    written["photos"]["crop"] = "left"
    with pytest.raises(ApdmError, match=r"does not say who its subject is \(crop is 'left'\)"):
        SubjectRecord.from_manifest(written)


def test_without_its_paths_somebody_has_to_say_where_the_photos_are(
    record: SubjectRecord,
) -> None:
    forgetful = record.without_paths()
    assert forgetful.as_manifest()["photos"]["sources"] == []
    for again in (forgetful.found, lambda: forgetful.load(32)):
        with pytest.raises(ApdmError, match=r"does not keep where the photos of ann lie.*--photos"):
            again()
    assert forgetful.found(record.sources) == record


def test_a_path_that_leads_nowhere_is_said(record: SubjectRecord) -> None:
    with pytest.raises(ApdmError, match="A path cannot be followed"):
        record.found([Path("~nobody-of-this-name/photos")])
