"""A subject added to a protected model, whose earlier subjects stay subjects."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import apdm_cli.protection.l2p as l2p
from apdm_cli.errors import ApdmError
from apdm_cli.harness.arms import Arms
from apdm_cli.protection.request import _require_own_photos
from apdm_cli.runs.jsonl import read_rows
from apdm_cli.runs.run import Run
from tests.protection.commands import forget_pipelines, run, same, stopped
from tests.protection.pair import Pair
from tests.protection.test_several import PERSISTENT
from tests.tiny import make_photos

CPU = torch.device("cpu")


class Home(Pair):
    """Alice is protected in `first`, and Rex added in `second`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        assert self.together("first", subjects=[self.both[0]]) == 0
        assert self.add("second") == 0

    def add(self, name: str, *more: str, onto: str = "first", subject: str = "") -> int:
        """Rex, or another `subject`."""
        return run([*self.onto(onto), "--subject", subject or self.both[1], "--name", name, *more])

    def onto(self, name: str) -> list[str]:
        """The beginning of a command that goes on from the run `name`."""
        settings = self.arguments("")[self.arguments("").index("--set") :]
        return ["protect", "--onto", name, "--out", str(self.runs), "--device", "cpu", *settings]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    yield Home(tmp_path_factory.mktemp("home"))
    forget_pipelines()


def test_the_manifest_has_the_original_and_everybody(home: Home) -> None:
    first, second = home.manifest("first"), home.manifest("second")
    assert second["model"] == first["model"]
    assert second["subjects"][0] == first["subject"]
    assert [one["name"] for one in second["subjects"]] == ["alice", "rex"]
    assert (second["onto"]["name"], second["onto"]["subjects"]) == ("first", ["alice"])
    made, before = (Arms(Run.open(home.runs, name), CPU, torch.float32) for name in
                    ("second", "first"))  # fmt: skip
    assert made.ref("original") == before.ref("original")
    assert made.ref("protected").digest != before.ref("protected").digest
    assert second["onto"]["digest"] == before.ref("protected").digest
    assert [view.name for view in made.run.each] == ["second/alice", "second/rex"]


def test_it_begins_with_the_protected_model(home: Home) -> None:
    assert home.add("still", "--set", "learning_rate=1e-12", "--set", "steps_outer=1") == 0
    still, first = home.weights("still"), home.weights("first")
    assert all(torch.allclose(still[name], first[name], atol=1e-9) for name in first)
    original = home.model / "unet/diffusion_pytorch_model.safetensors"
    assert (
        original.read_bytes()
        != (home.runs / "first/model/unet/diffusion_pytorch_model.safetensors").read_bytes()
    )


def objective_of(home: Home, monkeypatch: pytest.MonkeyPatch, name: str, *more: str) -> Any:
    seen: list[Any] = []
    real = l2p.LearningToProtect.__init__

    def noted(self: Any, *arguments: Any, **named: Any) -> None:
        real(self, *arguments, **named)
        seen.append(self.objective)

    with monkeypatch.context() as patch:
        patch.setattr(l2p.LearningToProtect, "__init__", noted)
        assert home.add(name, *more) == 0
    return seen[0]


def test_earlier_subjects_are_kept_under_their_captions_and_nobody_attacks_them(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = objective_of(home, monkeypatch, "distilled", *PERSISTENT)
    assert [len(source.photos) for source, _ in found.sides] == [3]  # Rex's
    term = found.preservation
    assert len(term.personal) == 2  # "sks person" and "zwx dog"
    assert torch.equal(term.personal["text"][:1], found.personal_condition["text"])
    # Samples of the class prompt and of other captions, of both classes.
    assert len(term.source.pictures) == len(term.captions) == 2 * (2 + 2)
    rows = term.captions["text"]
    assert not torch.equal(rows[0], rows[4])


def test_the_class_of_an_earlier_subject_is_preserved_by_pictures_too(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    term = objective_of(home, monkeypatch, "pictures").preservation
    assert len(term.source.pictures) == len(term.class_condition) == 2 * 4


def test_adding_goes_on_and_on(home: Home, tmp_path: Path) -> None:
    bob = make_photos(tmp_path / "bob", count=2, seed=11)
    assert home.add("third", onto="second", subject=f"bob={bob}:person") == 0
    found = home.manifest("third")
    assert [one["name"] for one in found["subjects"]] == ["alice", "rex", "bob"]
    assert found["onto"]["subjects"] == ["alice", "rex"]
    assert found["model"] == home.manifest("first")["model"]


@pytest.mark.usefixtures("heeded_signals")
def test_a_stopped_one_ends_bit_identically_and_only_on_the_same_model(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    with stopped():
        assert home.add("stopped") == 143
    begun = Run.open(home.runs, "stopped").begun_by()
    assert "--onto first" in begun and "--model" not in begun and "alice" not in begun
    assert f"--subject rex={home.photos}:dog:zwx" in begun
    assert home.together("elsewhere", "--seed", "7", subjects=[home.both[0]]) == 0
    capsys.readouterr()
    assert home.add("stopped", "--resume", onto="elsewhere") == 1
    assert "onto.digest was" in capsys.readouterr().err
    assert home.together("stopped", "--resume", subjects=[home.both[1]]) == 1
    assert home.add("stopped", "--resume") == 0
    assert same(home.weights("second"), home.weights("stopped"))
    logs = [read_rows(home.runs / name / "metrics.jsonl") for name in ("second", "stopped")]
    assert logs[0] == logs[1]


def test_the_photos_of_earlier_subjects_are_not_needed(home: Home) -> None:
    away = home.alice.rename(home.alice.with_name("away"))
    try:
        assert home.add("without") == 0
    finally:
        away.rename(home.alice)
    assert same(home.weights("second"), home.weights("without"))


def test_a_run_whose_name_makes_the_name_of_an_earlier_subject_is_refused(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bob = make_photos(tmp_path / "bob", count=2, seed=11)
    for name in ("Alice", "Älice"):
        assert run([*home.onto("first"), str(bob), "--class", "person", "--name", name]) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert "alice is protected in run first already" in said
        assert not (home.runs / name).exists()


def test_every_photo_of_an_earlier_subject_is_somebody_elses() -> None:
    photos = SimpleNamespace(sha256=("0a", "0a", "0b"), names=("1.png", "2.png", "3.png"))
    alice: Any = SimpleNamespace(name="alice", photos=photos)
    _require_own_photos([alice], [])
    earlier = {"name": "alice", "photos": {"files": [{"sha256": "0b"}]}}
    with pytest.raises(ApdmError, match=r"3\.png is a photo of both alice and alice"):
        _require_own_photos([alice], [earlier])


def test_what_cannot_be_added_is_said(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same_photos = shutil.copytree(home.alice, tmp_path / "same")
    assert home.together("part", "--save", "trained-only", subjects=[home.both[0]]) == 0
    for code, options, words in (
        (2, {"subject": f"alice={home.photos}:dog"}, "alice is protected in run first already"),
        (1, {"subject": f"bob={same_photos}:person"}, "is a photo of both alice and bob"),
        (1, {"onto": "nobody"}, "There is no run nobody"),
        (1, {"onto": "part"}, "did not save a whole model"),
        (2, {"onto": "second/rex"}, "this is one subject of a run"),
    ):
        capsys.readouterr()
        assert home.add("never", **options) == code
        assert words in " ".join(capsys.readouterr().err.split())
    for more, words in (
        (("--model", str(home.model)), "--onto begins with the run's own model"),
        (("--save", "adapter", "--set", "train=adapter"), "would miss"),
    ):
        assert home.add("never", *more) == 2
        assert words in capsys.readouterr().err
    naive = ["protect", "--subject", home.both[1], "--onto", "first", "--method", "naive"]
    assert run([*naive, "--out", str(home.runs)]) == 2
    assert "protects one subject at a time" in capsys.readouterr().err
    assert not (home.runs / "never").exists()
