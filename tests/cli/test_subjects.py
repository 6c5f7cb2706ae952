"""A run of two subjects through attack, evaluate, compare, runs and clean."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apdm_cli.runs.cleaning import Kind, orphans, plan
from apdm_cli.runs.listing import list_runs
from tests.evaluation.material import make_vit
from tests.protection.commands import forget_pipelines, run
from tests.protection.pair import Pair
from tests.tiny import make_photos

ATTACK = (
    *("--plugin", "dreambooth", "--budgets", "0.5,1", "--set", "steps=2"),
    *("--set", "prior_pictures=2", "--set", "sampler_steps=1"),
)
DRAWING = ("--images", "2", "--sampler", "ddim")


class Town(Pair):
    """A pair that is protected, attacked, evaluated and compared once."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.vit = make_vit(folder / "vit")
        assert self.together("both") == 0

    def command(self, name: str, *arguments: str) -> int:
        return run([name, *arguments, "--out", str(self.runs)])

    def attack(self, *arguments: str) -> int:
        drawn = (*DRAWING, "--sampler-steps", "1", "--device", "cpu")
        return self.command("attack", *arguments, *ATTACK, *drawn)

    def evaluate(self, *arguments: str) -> int:
        drawn = (*DRAWING, "--steps", "1", "--class-images", "2", "--device", "cpu")
        scored = ("--metrics", "dino,fid", "--weights", f"pocket-vit={self.vit}")
        return self.command("evaluate", *arguments, *drawn, *scored)

    def cells(self, subject: str) -> set[Path]:
        return set((self.runs / "both/subjects" / subject / "attacks").glob("*"))


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    made = Town(tmp_path_factory.mktemp("town"))
    assert made.attack("both") == 0
    assert made.evaluate("both") == 0
    yield made
    forget_pipelines()


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def test_every_subject_is_attacked_in_cells_of_its_own(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    assert town.attack("both", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    told = [(row["subject"], row["arm"], row["status"]) for row in found["cells"]]
    assert told == [
        (name, arm, "cached") for name in ("alice", "rex") for arm in ("original", "protected")
    ]
    assert len({row["path"] for row in found["cells"]}) == 4
    for name, noun, word in (("alice", "person", "sks"), ("rex", "dog", "zwx")):
        (cell,) = town.cells(name)
        taught = json.loads((cell / "manifest.json").read_text())["subject"]
        assert (taught["name"], taught["class_noun"], taught["identifier"]) == (name, noun, word)
    assert not (town.runs / "both/attacks").exists()


def test_one_attacker_of_two_subjects_is_two_cells(town: Town, tmp_path: Path) -> None:
    """The same photos and words say nothing of who is meant: the subject does."""
    photos = ("--photos", str(make_photos(tmp_path / "photos", count=2, seed=9)))
    words = ("--subject-class", "person", "--identifier", "sks")
    before = {name: town.cells(name) for name in ("alice", "rex")}
    for name in before:
        assert town.attack("both", "--subject", name, *photos, *words) == 0
    new = [town.cells(name) - before[name] for name in before]
    assert [len(cells) for cells in new] == [1, 1]
    manifests = [json.loads((cell / "manifest.json").read_text()) for (cell,) in new]
    assert [made["subject"]["name"] for made in manifests] == ["alice", "rex"]
    assert manifests[0]["control"] == manifests[1]["control"]  # the original knows neither


def test_scores_and_comparison_are_of_every_subject(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("alice", "rex"):
        scores = json.loads(
            (town.runs / "both/subjects" / name / "evaluation/scores.json").read_text()
        )
        assert (scores["run"], scores["subject"]["name"]) == (f"both/{name}", name)
        assert {row["role"] for row in scores["rows"]} == {"attack", "utility", "floor", "ceiling"}
    assert town.command("compare", "both", "--json", "--require", "work>=0") in (0, 3)
    found = json.loads(capsys.readouterr().out)
    assert {one["name"]: one["subject"]["class_noun"] for one in found["runs"]} == {
        "both/alice": "person",
        "both/rex": "dog",
    }
    assert [one["run"] for one in found["requirements"]] == [one["name"] for one in found["runs"]]
    assert not any("different subjects" in warning for warning in found["warnings"])
    commands = next(one for one in found["runs"] if one["name"] == "both/rex")["provenance"][
        "commands"
    ]
    assert commands[0].startswith(
        "apdm protect --subject alice=PHOTOS_OF_ALICE:person --subject rex=PHOTOS_OF_REX:dog:zwx"
    )
    assert " --name both " in commands[0]
    assert all(" both/rex" in command for command in commands[1:])
    page = (town.runs / "both/report.html").read_text()
    assert "both: 2 subjects, the smallest work factor first" in page
    # The newest scores are found without a name, too.
    assert town.command("compare", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["runs"]) == 2


def test_one_subject_has_a_report_of_its_own(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    assert town.command("compare", "both", "--subject", "rex", "--json") == 0
    asked = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in asked["runs"]] == ["both/rex"]
    assert (town.runs / "both/subjects/rex/report.html").is_file()
    assert town.command("compare", "both/rex", "--json") == 0
    again = json.loads(capsys.readouterr().out)
    assert again["runs"] == asked["runs"]


def test_a_dry_run_is_of_every_subject(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    assert town.evaluate("both", "--dry-run", "--json") == 0
    plans = json.loads(capsys.readouterr().out)["runs"]
    assert [one["name"] for one in plans] == ["both/alice", "both/rex"]
    assert town.attack("both", "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "alice" in shown and "rex" in shown


def test_workers_draw_what_one_process_draws(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    """A worker that helps opens the run for the subject whose pictures are drawn."""
    images = town.runs / "both/subjects/rex/evaluation/images"
    before = {path: path.read_bytes() for path in images.rglob("*.png")}
    assert before
    for path in before:
        path.unlink()
    assert town.evaluate("both", "--subject", "rex", "--workers", "2") == 0
    assert {path: path.read_bytes() for path in before} == before


def test_the_list_counts_and_cleaning_spares_what_subjects_need(town: Town) -> None:
    listed = next(one for one in list_runs(town.runs) if one.name == "both")
    assert listed.subject == "alice, rex"
    assert listed.attacks_done == len(town.cells("alice") | town.cells("rex"))
    assert listed.answer is not None and listed.answer.startswith("both/")
    assert orphans(town.runs) == []
    models = plan(town.runs, ["both"], artifacts=True).removable
    cells = {one.path.parent for one in models if one.kind is Kind.ARTIFACT and one.run == "both"}
    assert cells == town.cells("alice") | town.cells("rex")
    pictures = {one.path for one in plan(town.runs, ["both"], cache=True).removable}
    assert {town.runs / "both/subjects" / n / "evaluation/images" for n in ("alice", "rex")} <= (
        pictures
    )
    whole = plan(town.runs, ["both"]).removable
    controls = {one.path for one in whole if one.kind is Kind.CONTROL}
    needed = {json.loads((cell / "manifest.json").read_text())["control"] for cell in cells}
    assert {path.name for path in controls} == needed


@pytest.mark.parametrize(
    ("command", "arguments", "words"),
    [
        ("attack", ("both", "--subject", "bob"), "Its subjects: alice, rex"),
        ("attack", ("both/alice", "--subject", "rex"), "protects no subject rex"),
        ("attack", ("both", "--photos", "{alice}"), "Add --subject alice"),
        ("attack", ("both", "--subject-class", "cat"), "Add --subject alice"),
        ("attack", ("both/bob",), "Its subjects: alice, rex"),
        ("evaluate", ("both", "--subject", "bob"), "Its subjects: alice, rex"),
        ("evaluate", ("both", "--neighbours", "{alice}"), "Add --subject alice"),
        ("evaluate", ("both", "--photos", "{alice}"), "Add --subject alice"),
        ("evaluate", ("both/rex", "--neighbours", "{alice}"), "another subject that the run"),
        ("compare", ("both", "--subject", "bob"), "Its subjects: alice, rex"),
    ],
)
def test_whom_is_asked_for_where_it_matters(
    town: Town,
    capsys: pytest.CaptureFixture[str],
    command: str,
    arguments: tuple[str, ...],
    words: str,
) -> None:
    given = [word.format(alice=town.alice) for word in arguments]
    call: dict[str, Any] = {"attack": town.attack, "evaluate": town.evaluate}
    done = call[command](*given) if command in call else town.command(command, *given)
    assert done in (1, 2)
    assert words in " ".join(capsys.readouterr().err.split())


def test_a_subject_that_was_left_out_is_named(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    assert town.together("half", "--seed", "1") == 0
    assert town.attack("half", "--subject", "alice", "--no-control") == 0
    assert town.evaluate("half") == 1
    said = capsys.readouterr().err
    assert "Run half/rex was not attacked yet" in said and "apdm evaluate half/alice" in said
    assert town.evaluate("half/alice") == 0
    assert town.command("compare", "half") == 1
    assert "Run half/rex has no scores yet" in capsys.readouterr().err
