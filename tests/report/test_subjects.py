"""Several subjects of one run, compared: the one that is protected least comes first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from apdm_cli.cli.main import main
from apdm_cli.report.assemble import compare_runs, weakest_first
from apdm_cli.report.evaluated import open_runs
from apdm_cli.report.requirement import parse
from tests.report.synthetic import attack_row, levels, make_run, score


def curves(protected: Sequence[float]) -> list[dict[str, Any]]:
    """Rows of one attack: the original gets its likeness at 50 steps."""
    values = {"original": (0.2, 0.7, 0.8), "protected": protected}
    return levels() + [
        attack_row("lora", arm, score(value), cell=f"{arm}-cell")
        | {"budget": steps / 50, "steps": steps, "images": None}
        for arm, levels_of_arm in values.items()
        for steps, value in zip((25, 50, 150), levels_of_arm, strict=True)
    ]


def make_subjects(root: Path, rows: dict[str, list[dict[str, Any]]]) -> Path:
    """An evaluated run of several subjects, each with its rows."""
    run = root / "all"
    subjects = []
    for name, of_subject in rows.items():
        alone = make_run(root, name, of_subject, subject=name)
        manifest = json.loads((alone / "manifest.json").read_text())
        subjects.append(manifest.pop("subject"))
        place = run / "subjects" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        (run / "manifest.json").write_text(
            json.dumps({**manifest, "name": "all", "subjects": subjects})
        )
        alone.rename(place)
        (place / "manifest.json").unlink()
    return run


def test_a_run_onto_another_is_repeated_onto_it(tmp_path: Path) -> None:
    run = make_subjects(tmp_path, {"strong": curves(STRONG), "weak": curves(WEAK)})
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["onto"] = {"name": "before", "digest": "d" * 64, "subjects": ["strong"]}
    (run / "manifest.json").write_text(json.dumps(manifest))
    for one in compare_runs(open_runs(tmp_path, ["all"])).runs:
        assert one.provenance.commands[0].startswith(
            "apdm protect --subject weak=PHOTOS_OF_WEAK:person --onto before --name all"
        )


STRONG, WEAK = (0.05, 0.1, 0.15), (0.05, 0.4, 0.7)


def test_the_weakest_comes_first_with_its_requirements(tmp_path: Path) -> None:
    never = [row for row in curves(WEAK) if row["arm"] != "original" or row["role"] != "attack"]
    make_subjects(tmp_path, {"strong": curves(STRONG), "weak": curves(WEAK), "unknown": never})
    runs = open_runs(tmp_path, ["all"])
    compared = compare_runs(runs, [parse("work>=2")])
    ordered, ordered_runs = weakest_first(compared, runs)
    names = ["all/unknown", "all/weak", "all/strong"]
    assert [run.name for run in ordered.runs] == [run.name for run in ordered_runs] == names
    assert [one.run for one in ordered.requirements] == names
    assert [one.held for one in ordered.requirements] == [False, False, True]
    assert sorted(run.name for run in compared.runs) == sorted(names)


def test_runs_stay_in_their_order_and_subjects_by_their_run(tmp_path: Path) -> None:
    make_subjects(tmp_path, {"strong": curves(STRONG), "weak": curves(WEAK)})
    make_run(tmp_path, "other", curves(STRONG))
    for names, expected in (
        (["other", "all"], ["other", "all/weak", "all/strong"]),
        (["all", "other"], ["all/weak", "all/strong", "other"]),
    ):
        runs = open_runs(tmp_path, names)
        ordered, _ = weakest_first(compare_runs(runs), runs)
        assert [run.name for run in ordered.runs] == expected


def test_subjects_of_two_runs_of_one_name_keep_their_requirements(tmp_path: Path) -> None:
    for place in ("a", "b"):
        make_subjects(tmp_path / place, {"strong": curves(STRONG), "weak": curves(WEAK)})
    runs = open_runs(tmp_path, ["a/all", "b/all"])
    ordered, _ = weakest_first(compare_runs(runs, [parse("work>=2")]), runs)
    assert [run.name for run in ordered.runs] == ["all/weak", "all/strong"] * 2
    assert [one.run for one in ordered.requirements] == ["all/weak", "all/strong"] * 2


def test_the_answer_names_the_weakest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_subjects(tmp_path, {"strong": curves(STRONG), "weak": curves(WEAK)})
    with pytest.raises(SystemExit) as ended:
        main(["compare", "all", "--out", str(tmp_path)])
    assert not ended.value.code
    said = " ".join(capsys.readouterr().out.split())  # however wide the terminal is
    assert said.startswith("all/weak, with the smallest work factor of 2 subjects: An attacker")
    assert "(lora). all/strong: An attacker needs " in said
    assert (run / "report.html").is_file() and not (tmp_path / "_comparisons").exists()
