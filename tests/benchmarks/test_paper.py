"""The paper's tables: every one runs to its end at tiny scale, and says nothing it should not."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer

from apdm_cli.cli.main import build_app
from apdm_cli.config import resolve
from apdm_cli.errors import UsageError
from apdm_cli.evaluation.prompts import load_prompts
from apdm_cli.extension.manager import build_plugin_manager, registered_attacks
from apdm_cli.harness.transforms import check_transforms
from apdm_cli.pocket.samples import SUBJECTS, sample
from apdm_cli.scores import ScoreRow
from benchmarks.ci import call, options
from benchmarks.paper import door, lines, scale
from benchmarks.paper.__main__ import main
from benchmarks.paper.gather import Material
from benchmarks.paper.metrics import METRICS
from benchmarks.paper.readings import Reading, read_all
from benchmarks.paper.subjects import attack_photos
from benchmarks.paper.tables import FOLDER, Row, Table, load_table, table_names

# One subject shows what these have to show; the other tables run on every packaged stand-in.
FEWER = {"objects": ["cat-1"]} | {
    name: ["dog-1"]
    for name in ("ablations", "custom_diffusion", "diverse_prompts", "identifiers", "sd21",
                 "transforms")
}  # fmt: skip
SD = "stable-diffusion"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all tables: they share protected models and control arms."""
    return tmp_path_factory.mktemp("paper")


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


# First the table that attacks no protected model, which no other table is to do in its place.
@pytest.mark.parametrize("name", sorted(table_names(), key=lambda name: name != "preservation"))
def test_a_table_runs_to_its_end(
    name: str, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if name != "main":  # reports take seconds, and one table shows that they are written
        monkeypatch.setattr(door, "call", _call_without_reports)
    folders = [str(SUBJECTS / one) for one in FEWER.get(name, [])]
    subjects = ["--subjects", *folders] if folders else []
    tiny = ["--model", "pocket", "--scale", "tiny", "--out", str(out), "--json"]
    assert main([name, *tiny, *subjects]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["notes"][0] == scale.TINY_NOTE
    table = load_table(name)
    wanted = [
        (row.label, noun, column, row.paper.get(noun, {}).get(column))
        for row in table.row
        for noun in table.classes_of(row)
        for column in table.metrics_of(row)
    ]
    printed = answer["rows"]
    assert [(r["row"], r["class"], r["column"], r["paper"]) for r in printed] == wanted
    assert all(r["difference"] is None for r in printed)  # the pocket extractor is not DINO
    roles = {row.label: row.role for row in table.row}
    present = {sample(one).class_noun for one in FEWER.get(name, [])}
    for row in printed:
        if row["column"] == "dino" and roles[row["row"]] != "context":
            if present and row["class"] not in present:
                assert row["why"] == f"no photos of a {row['class']} were given"
                continue
            assert row["backend"] == "pocket-vit"
            assert row["n"] == scale.PICTURES
            assert row["why"] == lines.ANOTHER_BACKEND
    text = (out / f"{name}-tiny.md").read_text(encoding="utf-8")
    assert scale.TINY_NOTE in text
    assert text.count("\n| ") == len(wanted) + 2
    if name == "main":
        assert all((out / run / "report.html").is_file() for r in printed for run in r["runs"])


def test_all_the_tables_are_there() -> None:
    assert table_names() == [
        "ablations", "custom_diffusion", "diverse_prompts", "identifiers", "main", "objects",
        "preservation", "sd21", "transforms", "unseen_photos",
    ]  # fmt: skip
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(f"python -m benchmarks.paper {name} " in readme for name in table_names())


@pytest.mark.parametrize("name", table_names())
def test_published_values_are_numbers(name: str) -> None:
    table = tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    for row in table["row"]:
        for values in row["paper"].values():
            assert values
            assert all(isinstance(value, float) for value in values.values())


@pytest.mark.parametrize("name", table_names())
def test_the_commands_take_the_options_of_a_table(name: str) -> None:
    """At full scale too, which no test runs."""
    table = load_table(name)
    parser = getattr(typer.main.get_command(build_app()), "commands")["evaluate"]  # noqa: B009
    parser.make_context("evaluate", options(table.evaluate))  # raises on an unknown option
    assert load_prompts(table.evaluate["prompts"])
    known = registered_attacks(build_plugin_manager())
    for attack in table.attack.values():
        assert attack.plugin in known
        check_transforms(attack.transform)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrc": ["dino"]}, "metrc"),
        ({"protect": {"set": {"betta": 1.0}}}, "betta"),
        ({"row": [{"label": "x", "attack": "lora"}]}, "no attack 'lora'"),
        ({"row": [{"label": "x", "paper": {"cat": {"dino": 1.0}}}]}, "none of the table's classes"),
        ({"row": [{"label": "x", "paper": {"dog": {"fid": 1.0}}}]}, "would not be shown"),
    ],
)
def test_a_wrong_table_is_an_error(change: dict[str, Any], message: str) -> None:
    right: dict[str, Any] = {
        "title": "t",
        "model": SD,
        "classes": ["dog"],
        "attack": {"dreambooth": {}},
    }
    right["row"] = [{"label": "x"}]
    resolve(Table, right)
    with pytest.raises(UsageError, match=message):
        resolve(Table, right, change)


READING = Reading(Row(label="x", paper={"dog": {"dino": 0.5}}), "dog", "dino", 0.7, 30, "dino")


@pytest.mark.parametrize(
    ("backend", "model", "size", "says"),
    [
        ("dino-vits16", SD, "full", "+0.2000"),
        ("pocket-vit", SD, "full", lines.ANOTHER_BACKEND),
        ("dino-vits16", "pocket", "full", lines.ANOTHER_MODEL),
        ("dino-vits16", SD, "tiny", "tiny"),
    ],
)
def test_a_difference_stands_only_where_the_numbers_compare(
    backend: str, model: str, size: scale.Scale, says: str
) -> None:
    reading = replace(READING, backend=backend)
    (line,) = lines.make_lines([reading], model, size)
    assert (line.difference is not None) == (says == "+0.2000")
    assert f"| dino[{backend}] | 0.5000 | 0.7000 | {says} | 30 |" in _shown(line)


def test_what_was_not_published_and_what_is_unlike_have_no_difference() -> None:
    published = replace(READING, backend="dino-vits16")
    nothing = replace(published, row=Row(label="x"))
    unlike = replace(published, row=READING.row.model_copy(update={"unlike": {"dino": "why"}}))
    shown = [_shown(line) for line in lines.make_lines([nothing, unlike], SD, "full")]
    assert f"| {lines.NOT_PUBLISHED} | 0.7000 | – |" in shown[0]
    assert "| 0.5000 | 0.7000 | why |" in shown[1]


def test_a_reading_is_the_mean_over_subjects_and_names_those_that_have_a_score() -> None:
    table = load_table("main")
    people = [sample("person-1"), sample("person-2"), sample("person-3")]
    materials = [_material(0.2), _material(0.4), _material(None)]
    readings = read_all(table, {"person": people}, {(2, "person"): materials})
    (found,) = [r for r in readings if r.row.label == "APDM" and (r.noun, r.column) == APDM_DINO]
    assert found.value == pytest.approx(0.3)
    assert found.n == 60
    assert found.subjects == ("person-1", "person-2")
    lacking = next(r for r in readings if (r.row.label, r.column) == ("APDM", "brisque"))
    assert lacking.why == "brisque is not available: no weights"


APDM_DINO = ("person", "dino")


def _material(value: float | None) -> Material:
    score: dict[str, Any] = {"metric": "dino", "value": value, "n": 30, "skipped": 0}
    score["backend"] = {"name": "dino-vits16", "digest": ""}
    about = {"role": "attack", "arm": "protected", "attack": "dreambooth"}
    row = ScoreRow.model_validate({**about, "scores": [score]})
    return Material("run", (row,), {"brisque": "no weights"}, ())


def test_the_papers_backends_are_names_that_metrics_here_have() -> None:
    source = "".join(
        file.read_text(encoding="utf-8")
        for folder in ("plugins/apdm_metrics", "apdm_cli/evaluation")
        for file in (FOLDER.parents[1] / folder).glob("*.py")
    )
    for metric in METRICS.values():
        assert metric.backend.partition("/")[0] in source


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mein"], "Known are: ablations, custom_diffusion"),
        (["main"], "--subjects is missing: photos of person, dog are needed"),
        (["main", "--subjects", "nowhere"], "--subjects nowhere: there is no folder nowhere"),
        (["main", "--subjects", str(SUBJECTS / "cat-1")], "None of the subjects is a person or"),
        (["preservation", "--subjects", str(SUBJECTS / "person-1")], "--captions is missing"),
        (["preservation", "--model", "pocket", "--captions", "none.txt"], "--captions none.txt"),
    ],
)
def test_bad_input_is_named(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--out", str(tmp_path)]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not any(tmp_path.iterdir())


def test_too_few_unseen_photos_are_an_error_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(attack_photos(sample("person-1"), "unseen", 99, all_needed=False)) < 99
    assert main(["unseen_photos", "--model", "pocket", "--out", str(tmp_path)]) == 1
    assert "photos, and this table needs 8" in " ".join(capsys.readouterr().err.split())
    assert not any(tmp_path.iterdir())


def test_a_failed_command_ends_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(door, "call", lambda command: 1)
    assert main(["main", "--model", "pocket", "--out", str(tmp_path)]) == 1
    assert "apdm protect ended with exit code 1" in capsys.readouterr().err


def _call_without_reports(command: Sequence[str]) -> int:
    return 0 if command[0] == "compare" else call(command)


def _shown(line: lines.Line) -> str:
    table = load_table("main")
    return lines.markdown(table, [line], SD, "full")
