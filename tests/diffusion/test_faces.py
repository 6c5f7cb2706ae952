"""`--crop face`: the square lies around the face, and what was not found is said."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from apdm_cli.cli.main import main
from apdm_cli.diffusion import faces, photos
from apdm_cli.diffusion.faces import place_of_face
from apdm_cli.diffusion.photo_decoding import square
from apdm_cli.diffusion.photos import load_photos
from apdm_cli.errors import ApdmError
from apdm_cli.report.pictures import subject_photos
from apdm_cli.subject import Subject, SubjectRecord
from tests.hostile.commands import outcome
from tests.tiny import make_tiny_pipeline

FACE = (224, 114)  # the middle of the face in scikit-image's photo of an astronaut


@pytest.fixture(scope="module")
def astronaut() -> Image.Image:
    """512x512: Eileen Collins, NASA, in the public domain; her face left of the middle."""
    data = pytest.importorskip("skimage.data")
    return Image.fromarray(data.astronaut())


@pytest.fixture(scope="module")
def strip(astronaut: Image.Image) -> Image.Image:
    """640x256 with the face at the right edge."""
    made = Image.new("RGB", (640, 256), (90, 110, 130))
    made.paste(astronaut.crop((96, 0, 352, 256)), (384, 0))
    return made


def shown(picture: Image.Image, at: float) -> tuple[float, float]:
    """From where to where the square shows `picture`, along its longer side."""
    room = max(picture.size) - min(picture.size)
    return at * room, at * room + min(picture.size)


def test_the_square_lies_around_the_face(astronaut: Image.Image) -> None:
    left = astronaut.crop((100, 0, 512, 256))  # the face is at 124 of 412
    for picture, middle in (
        (left, FACE[0] - 100),
        (ImageOps.mirror(left), 512 - FACE[0]),
        (astronaut.crop((100, 0, 330, 512)), FACE[1]),
        (astronaut.crop((100, 0, 330, 512)).resize((920, 2048)), 4 * FACE[1]),
    ):
        place = place_of_face(picture)
        start, end = shown(picture, place.at)
        assert place.faces == 1 and place.all_inside
        # As near to the middle of the square as the edges of the photo allow.
        wanted = min(max(middle - (end - start) / 2, 0), max(picture.size) - min(picture.size))
        assert start == pytest.approx(wanted, abs=0.08 * min(picture.size))


def test_a_person_at_the_edge_of_a_strip_is_kept(strip: Image.Image, tmp_path: Path) -> None:
    strip.save(tmp_path / "strip.png")
    found = load_photos([tmp_path], 64, crop="face")
    assert found.crop == "face" and found.places[0] > 0.9
    assert not any("cropped" in one or "face" in one for one in found.warnings)
    start = int((160 - 64) * found.places[0])
    right = strip.resize((160, 64), Image.Resampling.LANCZOS).crop((start, 0, start + 64, 64))
    expected = torch.from_numpy(np.asarray(right).copy()).permute(2, 0, 1).float() / 127.5 - 1
    assert torch.equal(found.pixels[0], expected)
    flat = torch.tensor([90, 110, 130]) / 127.5 - 1
    middle = load_photos([tmp_path], 64).pixels[0]
    assert torch.allclose(middle[:, 10, 5], flat, atol=0.01)  # a wall instead of a person


def test_no_face_is_said_by_name_and_the_middle_is_used(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    wall = Image.effect_mandelbrot((300, 200), (-3, -2.5, 2, 2.5), 50).convert("RGB")
    wall.save(tmp_path / "wall.png")
    wall.crop((0, 0, 200, 200)).save(tmp_path / "square.png")  # nothing is cut off: no question
    found = load_photos([tmp_path], 32, crop="face")
    (sentence,) = [one for one in found.warnings if "No face" in one]
    assert "found in wall.png: the square is cut out of the middle" in sentence
    assert "--crop none" in sentence and "square.png" not in sentence
    assert found.places == (0.5, 0.5)
    assert torch.equal(found.pixels, load_photos([tmp_path], 32).pixels)


def test_two_faces_that_no_square_holds_are_said(astronaut: Image.Image, tmp_path: Path) -> None:
    face = astronaut.crop((124, 14, 324, 214))
    both = Image.new("RGB", (900, 260), (90, 110, 130))
    both.paste(face.resize((240, 240)), (0, 10))
    both.paste(face, (700, 30))
    both.save(tmp_path / "both.png")
    found = load_photos([tmp_path], 32, crop="face")
    (sentence,) = [one for one in found.warnings if "Several faces" in one]
    assert "both.png (2)" in sentence and "largest" in sentence
    assert found.places[0] < 0.1


def test_the_place_that_was_found_counts_from_then_on(
    strip: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another detector, or none, changes nothing of a run that is there."""
    folder = tmp_path / "photos"
    folder.mkdir()
    strip.save(folder / "strip.png")
    ImageOps.mirror(strip).save(folder / "turned.png")
    loaded = load_photos([folder], 64, crop="face")
    record = SubjectRecord.of(Subject("ann", "person", "sks", loaded), [folder])
    written = json.loads(json.dumps(record.as_manifest()))
    assert SubjectRecord.from_manifest(written) == record

    def never(*_: object) -> None:
        raise AssertionError("looked for again")

    monkeypatch.setattr(photos, "place_of_face", never)
    (folder / "strip.png").rename(folder / "z.png")  # the content decides, not name or order
    again = SubjectRecord.from_manifest(written).found().load(64)
    assert torch.equal(again.photos.pixels, loaded.pixels.flip(0))
    thumbnails = subject_photos({"subject": written}, 64)
    first = np.asarray(square(strip, 64, "face", loaded.places[0]))
    assert np.array_equal(np.asarray(thumbnails[0]), first)
    del written["photos"]["files"][0]["at"]
    with pytest.raises(ApdmError, match="does not say who its subject is"):
        SubjectRecord.from_manifest(written)


def test_other_places_are_another_attack(strip: Image.Image, tmp_path: Path) -> None:
    """What was trained on another part of a photo is never taken for this."""
    from apdm_cli.extension.manager import build_plugin_manager, registered_attacks
    from apdm_cli.harness.plan import make_jobs
    from apdm_cli.harness.suites import SuiteEntry

    strip.save(tmp_path / "strip.png")
    record = SubjectRecord.read("ann", "person", "sks", [tmp_path], crop="face")
    (digest,) = record.digests

    def described(at: float) -> object:
        subject = replace(record, places=((digest, at),))
        entries, known = [SuiteEntry(name="dreambooth")], registered_attacks(build_plugin_manager())
        (job,) = make_jobs(known, entries, subject=subject, seeds=(0,), profile="", settings=(),
                           transforms=())  # fmt: skip
        return job.description()

    assert described(0.9) != described(0.1)


def test_without_the_package_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(faces, "find_spec", lambda name: None if name == "skimage" else found(name))
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    command = ["protect", str(tmp_path), "--class", "dog", "--out", str(tmp_path / "runs")]
    code, said = outcome([*command, "--crop", "face"], capfd)
    assert code == 1 and "pip install 'apdm[faces]'" in said
    assert not (tmp_path / "runs").exists()


def test_a_run_says_how_it_was_cropped_and_goes_on_only_that_way(
    strip: Image.Image, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    strip.save(folder / "strip.png")
    model = make_tiny_pipeline(tmp_path / "model", channels=(32, 32), text_layers=1)
    quick = ("steps_outer=1", "steps_inner=1", "prior_pictures=2", "sampler_steps=2")
    command = [
        *("protect", str(folder), "--class", "dog", "--model", str(model), "--device", "cpu"),
        *("--out", str(tmp_path / "runs"), "--name", "run", "--crop", "face"),
        *(part for setting in quick for part in ("--set", setting)),
    ]
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert not ended.value.code
    file = tmp_path / "runs" / "run" / "manifest.json"
    manifest = json.loads(file.read_text())
    kept = manifest["subject"]["photos"]
    assert kept["crop"] == "face" and kept["files"][0]["at"] > 0.9
    # As if it had been stopped, and cut elsewhere by another detector.
    kept["files"][0]["at"] = 0.1
    file.write_text(json.dumps({**manifest, "status": "running"}))
    capfd.readouterr()
    code, said = outcome([*command, "--resume"], capfd)
    assert code == 1 and "places.strip.png was 0.1 and is now" in said.replace("\n", " ")
