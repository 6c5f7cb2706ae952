"""From run folders to a comparison: what is refused, what is said, what is left out."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from apdm_cli.errors import ApdmError
from apdm_cli.report.assemble import compare_runs
from apdm_cli.report.evaluated import open_runs
from tests.report.synthetic import (
    attack_row,
    both,
    full_rows,
    levels,
    make_run,
    pick,
    row,
    score,
    utility_rows,
    value,
)


def test_two_backends_are_refused(tmp_path: Path) -> None:
    rows = both("lora", 0.6, 0.2)
    rows[1]["scores"] = [score(0.2, backend={"name": "vits16", "digest": "99"})]
    make_run(tmp_path, rows=rows)
    with pytest.raises(ApdmError, match=r"two backends.*pocket-extractor.*vits16"):
        compare_runs(open_runs(tmp_path, []))


def test_two_numbers_of_pictures_are_refused_but_skipped_ones_count(tmp_path: Path) -> None:
    rows = both("lora", 0.6, 0.2)
    rows[1]["scores"] = [score(0.2, n=28, skipped=2)]
    make_run(tmp_path, "fine", rows=rows)
    line = pick(list(compare_runs(open_runs(tmp_path, ["fine"])).runs[0].lines), "attack")
    assert line.protected is not None and line.protected.skipped == 2
    rows[1]["scores"] = [score(0.2, n=28)]
    make_run(tmp_path, "bad", rows=rows)
    with pytest.raises(ApdmError, match=r"30 pictures.*and on 28"):
        compare_runs(open_runs(tmp_path, ["bad"]))


def test_a_distance_between_sets_needs_equal_numbers_without_the_skipped(tmp_path: Path) -> None:
    rows = both("lora", 0.6, 0.2) + utility_rows()
    rows[-1]["scores"] = [score(8.0, "fid", n=127, skipped=1)]
    make_run(tmp_path, rows=rows)
    with pytest.raises(ApdmError, match="fid was computed on 128"):
        compare_runs(open_runs(tmp_path, []))


def test_runs_of_other_backends_are_not_put_side_by_side(tmp_path: Path) -> None:
    make_run(tmp_path, "one", both("lora", 0.6, 0.2))
    other = both("lora", 0.6, 0.2)
    for one in other:
        one["scores"][0]["backend"] = {"name": "pocket-extractor", "digest": "other"}
    make_run(tmp_path, "two", other)
    with pytest.raises(ApdmError, match=r"one: lora.*two: lora"):
        compare_runs(open_runs(tmp_path, ["one", "two"]))


def test_runs_of_different_subjects_are_compared_and_it_is_said(tmp_path: Path) -> None:
    make_run(tmp_path, "one", both("lora", 0.6, 0.2))
    make_run(tmp_path, "two", both("lora", 0.6, 0.2), subject="dog-3")
    comparison = compare_runs(open_runs(tmp_path, ["one", "two"]))
    assert [run.name for run in comparison.runs] == ["one", "two"]
    assert "different subjects (one: person-1, two: dog-3)" in comparison.warnings[0]
    assert compare_runs(open_runs(tmp_path, ["one"])).warnings == ()


def test_cells_that_differ_in_settings_only_are_told_apart(tmp_path: Path) -> None:
    rows = [
        *both("lora", 0.6, 0.2),
        attack_row("lora", "original", score(0.8), cell="long-o"),
        attack_row("lora", "protected", score(0.5), cell="long-p"),
    ]
    run = make_run(tmp_path, rows=rows)
    for file in (
        run / "attacks" / "long-p" / "manifest.json",
        tmp_path / "_control" / "long-o" / "manifest.json",
    ):
        file.write_text(file.read_text().replace('"steps": 100', '"steps": 300'))
    lines = list(compare_runs(open_runs(tmp_path, [])).runs[0].lines)
    assert value(pick(lines, "attack", "lora (steps=100)").protected) == 0.2
    assert value(pick(lines, "attack", "lora (steps=300)").protected) == 0.5


def test_a_missing_control_arm_is_said(tmp_path: Path) -> None:
    make_run(tmp_path, rows=[attack_row("lora", "protected", score(0.2)), *levels()])
    comparison = compare_runs(open_runs(tmp_path, []))
    assert "No control arm for lora" in comparison.warnings[0]
    assert "the attack may simply be weak" in comparison.runs[0].verdict


def test_attacks_that_failed_or_wait_for_scores_are_listed(tmp_path: Path) -> None:
    run = make_run(tmp_path, unavailable=[{"metric": "clip-t", "reason": "no weights"}])
    failed = run / "attacks" / "heal-0123456789ab.partial"
    failed.mkdir()
    (failed / "failure.json").write_text('{"error": "NaN loss"}')
    (run / "attacks" / "late-0123456789ab").mkdir()
    problems = compare_runs(open_runs(tmp_path, [])).runs[0].problems
    assert [(one.what, one.why) for one in problems] == [
        ("attack heal-0123456789ab failed", "NaN loss"),
        ("attack late-0123456789ab is not scored", "run: apdm evaluate photos-person"),
        ("clip-t is not available", "no weights"),
    ]


def test_the_newest_evaluated_run_is_the_default(tmp_path: Path) -> None:
    make_run(tmp_path, "old")
    make_run(tmp_path, "new")
    for name, age in (("old", 200), ("new", 100)):
        os.utime(tmp_path / name / "evaluation" / "scores.json", ns=(age, age))
    assert open_runs(tmp_path, [])[0].name == "old"
    assert [run.name for run in open_runs(tmp_path, ["new", "old", "new"])] == ["new", "old"]


def test_a_run_without_scores_says_what_to_do(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (run / "evaluation" / "scores.json").unlink()
    for names in ([], ["photos-person"]):
        with pytest.raises(ApdmError) as caught:
            open_runs(tmp_path, names)
        assert "has no scores" in caught.value.what
        assert "apdm evaluate photos-person" in caught.value.hint


def test_scores_without_an_attack_say_what_to_do(tmp_path: Path) -> None:
    make_run(tmp_path, rows=utility_rows())
    with pytest.raises(ApdmError, match="no scored attack"):
        open_runs(tmp_path, [])


def test_broken_scores_name_the_place(tmp_path: Path) -> None:
    rows = full_rows()
    rows[0]["arm"] = "third"
    make_run(tmp_path, rows=rows)
    with pytest.raises(ApdmError, match=r"scores\.json cannot be used: rows\.0\.arm"):
        open_runs(tmp_path, [])


def test_commands_repeat_the_run_without_saying_where_photos_lie(tmp_path: Path) -> None:
    make_run(tmp_path)
    commands = compare_runs(open_runs(tmp_path, [])).runs[0].provenance.commands
    assert commands[0].startswith("apdm protect PHOTOS --class person --name photos-person")
    assert "--plugin dreambooth --plugin lora --plugin textual-inversion --seeds 3" in commands[1]
    assert "--steps 20 --guidance 3.0" in " ".join(commands)
    assert "/home/secret" not in compare_runs(open_runs(tmp_path, [])).model_dump_json()


def test_commands_repeat_what_an_attack_had_otherwise(tmp_path: Path) -> None:
    rows = [
        attack_row("lora", "protected", score(0.2), variant="unseen photos, rank=8", cell="one"),
        attack_row("lora", "protected", score(0.2), variant="flip", cell="two"),
    ]
    run = make_run(tmp_path, rows=rows)
    for cell, change in (
        ("one", {"subject": {"identifier": "zwx", "photos": {"files": [{"sha256": "9"}]}}}),
        ("two", {"transforms": ["flip"]}),
    ):
        file = run / "attacks" / cell / "manifest.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    commands = compare_runs(open_runs(tmp_path, [])).runs[0].provenance.commands
    assert commands[1:3] == (
        "apdm attack photos-person --plugin lora --photos OTHER_PHOTOS --identifier zwx "
        "--set lora.rank=8 # unseen photos",
        "apdm attack photos-person --plugin lora --transform flip # flip",
    )


def test_a_single_row_needs_no_more(tmp_path: Path) -> None:
    """The smallest evaluation: one attack, one arm, no floor, no pictures, no logs."""
    bare = attack_row("lora", "protected", score(0.2, spread=None))
    make_run(tmp_path, rows=[{**bare, "images": None}, row("floor", "original", label="floor")])
    comparison = compare_runs(open_runs(tmp_path, []))
    assert comparison.runs[0].lines[0].label == "lora"
