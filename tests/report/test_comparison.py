"""From rows to lines: pairing, summaries, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from apdm_cli.errors import ApdmError
from apdm_cli.report.assemble import compare_runs
from apdm_cli.report.comparison import compare_rows
from apdm_cli.report.schema import Line
from apdm_cli.report.scores import ScoreRow, open_runs
from tests.report.synthetic import (
    attack_row,
    full_rows,
    levels,
    make_run,
    neighbour_rows,
    row,
    score,
    utility_rows,
)


def lines_of(rows: list[dict[str, Any]]) -> tuple[list[Line], list[str]]:
    return compare_rows([ScoreRow.model_validate(row) for row in rows])


def pick(lines: list[Line], role: str, label: str | None = None, metric: str = "dino") -> Line:
    found = [
        line
        for line in lines
        if line.role == role and line.metric == metric and label in (None, line.label)
    ]
    assert len(found) == 1, found
    return found[0]


def both(attack: str, original: float, protected: float, **fields: Any) -> list[dict[str, Any]]:
    return [
        attack_row(attack, "original", score(original), **fields),
        attack_row(attack, "protected", score(protected), **fields),
    ]


def value(interval: Any) -> float:
    assert interval is not None
    return float(interval.value)


def test_a_line_has_both_arms_their_difference_and_the_cut() -> None:
    lines, said = lines_of(both("lora", 0.62, 0.32) + levels())
    line = pick(lines, "attack", "lora")
    assert (value(line.original), value(line.protected)) == (0.62, 0.32)
    assert value(line.difference) == pytest.approx(-0.3)
    assert value(line.cut) == pytest.approx((0.62 - 0.32) / (0.62 - 0.02))
    assert line.original is not None and (line.original.low, line.original.n) == (0.57, 30)
    assert said == []


def test_the_mean_over_seeds_keeps_every_seed() -> None:
    rows = both("lora", 0.6, 0.2, seed=0) + both("lora", 0.8, 0.4, seed=1)
    line = pick(lines_of(rows)[0], "attack")
    assert value(line.protected) == pytest.approx(0.3)
    assert line.protected is not None
    assert line.protected.seeds == (0, 1)
    assert line.protected.per_seed == (0.2, 0.4)


def test_the_worst_case_is_taken_in_each_arm_and_named() -> None:
    rows = both("dreambooth", 0.7, 0.1) + both("lora", 0.5, 0.3) + levels()
    worst = pick(lines_of(rows)[0], "worst")
    assert worst.reached_by == {"original": "dreambooth", "protected": "lora"}
    assert (value(worst.original), value(worst.protected)) == (0.7, 0.3)
    assert value(worst.difference) == pytest.approx(-0.4)
    assert value(worst.cut) == pytest.approx(0.4 / 0.68)


def test_the_worst_case_of_a_metric_where_higher_protects_is_the_lowest() -> None:
    rows = []
    for attack, number in (("dreambooth", 60.0), ("lora", 40.0)):
        for arm in ("original", "protected"):
            rows.append(
                attack_row(attack, arm, score(number, "brisque", better="higher", spread=1))
            )
    worst = pick(lines_of(rows)[0], "worst", metric="brisque")
    assert worst.reached_by["protected"] == "lora"
    assert worst.cut is None


def test_the_mean_over_attacks_weighs_them_equally_whatever_their_seeds() -> None:
    rows = both("a", 0.6, 0.2, seed=0) + both("a", 0.6, 0.2, seed=1) + both("b", 0.8, 0.6)
    assert value(pick(lines_of(rows)[0], "mean").protected) == pytest.approx(0.4)


def test_without_the_control_arm_there_is_no_difference() -> None:
    rows = [attack_row("lora", "protected", score(0.2)), *levels()]
    line = pick(lines_of(rows)[0], "attack")
    assert line.original is None and line.difference is None and line.cut is None
    assert value(line.protected) == 0.2


def test_seeds_that_only_one_arm_has_stay_out_and_that_is_said() -> None:
    rows = [*both("lora", 0.6, 0.2, seed=0), attack_row("lora", "protected", score(0.9), seed=1)]
    lines, said = lines_of(rows)
    assert value(pick(lines, "attack").protected) == 0.2
    assert "different seeds" in said[0] and "only [0] are compared" in said[0]


def test_arms_without_a_common_seed_are_shown_but_not_compared() -> None:
    rows = [
        attack_row("lora", "original", score(0.6), seed=0),
        attack_row("lora", "protected", score(0.2), seed=1),
    ]
    lines, said = lines_of(rows)
    line = pick(lines, "attack")
    assert line.difference is None and value(line.protected) == 0.2
    assert "they are not compared" in said[0]


def test_a_score_without_a_value_is_left_out_and_said() -> None:
    rows = [
        *both("lora", 0.6, 0.2),
        attack_row("broken", "protected", score(None, n=0, skipped=30)),
    ]
    lines, said = lines_of(rows)
    assert [line.label for line in lines if line.role == "attack"] == ["lora"]
    assert "broken" in said[0]


def test_utility_pairs_by_topic_and_same_seed_needs_no_original() -> None:
    lines, _ = lines_of(utility_rows())
    distance = pick(lines, "utility", "class pictures", "fid")
    assert (value(distance.original), value(distance.protected)) == (7.4, 8.1)
    assert value(distance.difference) == pytest.approx(0.7)
    same = pick(lines, "utility", "class pictures", "same-seed")
    assert same.original is None and value(same.protected) == 0.83


def test_class_pictures_stand_beside_those_of_the_same_seed() -> None:
    lines, _ = lines_of(utility_rows())
    pictures = pick(lines, "utility", metric="fid").pictures
    assert pictures.original == "evaluation/images/class-b"
    assert pictures.protected == "evaluation/images/class-protected"


def test_what_protects_the_subject_is_bad_for_neighbours() -> None:
    lines, _ = lines_of(neighbour_rows())
    line = pick(lines, "neighbour", "dog-2")
    assert line.better == "higher"
    assert value(line.kept) == pytest.approx(0.69 / 0.7)
    assert value(pick(lines, "neighbours").kept) == pytest.approx((0.6 + 0.69) / (0.66 + 0.7))


def test_good_pictures_of_neighbours_stay_good_pictures() -> None:
    quality = score(40.0, "brisque", better="higher", spread=1)
    variety = score(0.4, "diversity", better="higher")
    rows = [
        row("neighbour", arm, quality, variety, attack="dreambooth", label=f"dog-2, {arm}")
        for arm in ("original", "protected")
    ]
    lines, _ = lines_of(rows)
    assert pick(lines, "neighbour", metric="brisque").better == "lower"
    assert pick(lines, "neighbour", metric="diversity").better == "higher"
    assert pick(lines, "neighbour", metric="brisque").kept is None  # no share of a quality score


def test_pictures_of_an_attack_are_those_of_the_first_common_seed() -> None:
    rows = both("lora", 0.6, 0.2, seed=1) + both("lora", 0.6, 0.2, seed=2)
    rows.append(attack_row("lora", "protected", score(0.2), seed=0))
    pictures = pick(lines_of(rows)[0], "attack").pictures
    assert pictures.seed == 1
    assert pictures.original and pictures.original.startswith("../_control/")


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
