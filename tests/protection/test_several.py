"""Several subjects protected at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apdm_cli.protection import run as room
from apdm_cli.runs.run import Run
from tests.protection.commands import SHORT, Desk, forget_pipelines, run, same
from tests.tiny import make_photos


@pytest.fixture(scope="module", autouse=True)
def _pipelines() -> Iterator[None]:
    yield
    forget_pipelines()


class Pair(Desk):
    """A desk with the photos of a dog called Rex and of a person called Alice."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.alice = make_photos(folder / "alice", count=2, seed=1)

    @property
    def both(self) -> list[str]:
        return [f"alice={self.alice}:person", f"rex={self.photos}:dog:zwx"]

    def together(self, name: str, *more: str, subjects: list[str] | None = None) -> int:
        named = [part for one in subjects or self.both for part in ("--subject", one)]
        settings = [part for setting in SHORT for part in ("--set", setting)]
        model = ("--model", str(self.model), "--out", str(self.runs), "--device", "cpu")
        return run(["protect", *named, *model, "--name", name, *settings, *more])

    def manifest(self, name: str) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.runs / name / "manifest.json").read_text())
        return loaded


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """One finished run, `both`, that tests only look at."""
    made = Pair(tmp_path_factory.mktemp("pair"))
    assert made.together("both", "--set", "preview_every=4") == 0
    return made


def test_the_manifest_tells_of_all_subjects(pair: Pair) -> None:
    found = pair.manifest("both")
    assert "subject" not in found
    told = [(one["name"], one["class_noun"], one["identifier"]) for one in found["subjects"]]
    assert told == [("alice", "person", "sks"), ("rex", "dog", "zwx")]
    assert [len(one["photos"]["files"]) for one in found["subjects"]] == [2, 3]
    assert {path.name for path in (pair.runs / "both/previews").iterdir()} == {
        "step-000004-alice.png",
        "step-000004-rex.png",
    }


def test_a_view_is_one_subject_with_results_of_its_own(pair: Pair) -> None:
    views = Run.open(pair.runs, "both").each
    assert [view.name for view in views] == ["both/alice", "both/rex"]
    assert [view.manifest["subject"]["class_noun"] for view in views] == ["person", "dog"]
    assert len({view.attacks for view in views} | {view.evaluation for view in views}) == 4
    assert len({view.model for view in views}) == 1
    for view in views:
        for again in (view.name, view.address):
            assert Run.open(pair.runs, again).attacks == view.attacks
