"""From run folders to a comparison: what is refused, what is said, what is left out."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any

import pytest

from apdm_cli.errors import ApdmError
from apdm_cli.report.assemble import compare_runs
from apdm_cli.report.evaluated import open_runs
from apdm_cli.report.schema import Comparison, Line
from tests.report.synthetic import (
    METRICS,
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


def test_the_run_with_fewer_pictures_is_the_one_to_score_again(tmp_path: Path) -> None:
    few = both("lora", 0.6, 0.2)
    for one in few:
        one["scores"][0]["n"] = 4
    make_run(tmp_path, "few", rows=few)
    make_run(tmp_path, "many", rows=both("lora", 0.6, 0.2))
    for names in (["few", "many"], ["many", "few"]):
        with pytest.raises(ApdmError, match="never compared") as raised:
            compare_runs(open_runs(tmp_path, names))
        assert f"apdm evaluate few --images 30 --out {tmp_path}" in raised.value.hint


def test_a_distance_of_which_a_picture_was_skipped_is_left_out_and_the_rest_goes_on(
    tmp_path: Path,
) -> None:
    rows = both("lora", 0.6, 0.2) + utility_rows()
    rows[-1]["scores"][0] = score(8.0, "fid", n=127, skipped=1)
    make_run(tmp_path, rows=rows)
    comparison = compare_runs(open_runs(tmp_path, []))
    (said,) = comparison.warnings
    assert "fid of class pictures is left out: 128 pictures" in said and "and 127" in said
    scored = {(line.role, line.metric) for line in comparison.runs[0].lines}
    assert ("utility", "same-seed") in scored and ("utility", "fid") not in scored


def test_a_distance_that_was_asked_for_on_two_numbers_is_refused(tmp_path: Path) -> None:
    rows = both("lora", 0.6, 0.2) + utility_rows()
    rows[-1]["scores"] = [score(8.0, "fid", n=64)]
    make_run(tmp_path, rows=rows)
    with pytest.raises(ApdmError, match="fid was computed on 128"):
        compare_runs(open_runs(tmp_path, []))


@pytest.mark.parametrize(
    ("metric", "names", "option"),
    [
        ("fid", ("inception-pytorch-fid", "pocket-vit"), "--weights inception=PATH"),
        ("fid", ("pocket-vit", "pocket-vit"), "--weights pocket-vit=PATH"),
        ("clip-i", ("open_clip/a", "open_clip/b"), "--weights clip=PATH"),
        ("brisque-paper", ("brisque-package-1", "brisque-package-2"), ""),
    ],
)
def test_two_backends_are_brought_together_by_a_name_that_weights_knows(
    metric: str, names: tuple[str, str], option: str, tmp_path: Path
) -> None:
    rows = [
        attack_row("lora", arm, score(0.5, metric, backend={"name": name, "digest": str(digest)}))
        for digest, (arm, name) in enumerate(zip(("original", "protected"), names, strict=True))
    ]
    make_run(tmp_path, rows=rows)
    with pytest.raises(ApdmError, match="two backends") as raised:
        compare_runs(open_runs(tmp_path, []))
    words = f" {option}" if option else ""
    assert raised.value.hint.endswith(f"apdm evaluate photos-person{words} --out {tmp_path}")


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


def test_one_model_in_both_arms_is_not_yet_a_protection_of_photos(tmp_path: Path) -> None:
    """As in an A/A test: what a run protects stands in its manifest."""
    file = make_run(tmp_path) / "evaluation" / "scores.json"
    scores = json.loads(file.read_text())
    scores["protected_digest"] = scores["model"]["digest"]
    file.write_text(json.dumps(scores))
    (run,) = compare_runs(open_runs(tmp_path, [])).runs
    assert run.protects == "model" and "photos" not in run.answer + run.verdict


def test_runs_on_the_same_photos_are_of_one_subject_whatever_its_name(tmp_path: Path) -> None:
    """`apdm protect` names the subject after the run."""
    for name in ("one", "two"):
        manifest = make_run(tmp_path, name, both("lora", 0.6, 0.2)) / "manifest.json"
        changed = json.loads(manifest.read_text())
        changed["subject"]["name"] = name
        manifest.write_text(json.dumps(changed))
    assert compare_runs(open_runs(tmp_path, ["one", "two"])).warnings == ()


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


def _two_cells(root: Path, attack: str, older: dict[str, Any], newer: dict[str, Any]) -> list[Line]:
    """The lines of a run that was attacked twice, with other manifests of both arms."""
    rows = [
        *both(attack, 0.6, 0.2),
        attack_row(attack, "original", score(0.8), cell="new-o"),
        attack_row(attack, "protected", score(0.5), cell="new-p"),
    ]
    make_run(root, rows=rows)
    for one, change in zip(rows, (older, older, newer, newer), strict=True):
        for file in root.glob(f"*/**/{one['cell']}/manifest.json"):
            manifest = json.loads(file.read_text())
            settings = {**manifest["configuration"], **change.get("configuration", {})}
            file.write_text(json.dumps({**manifest, **change, "configuration": settings}))
    return list(compare_runs(open_runs(root, [])).runs[0].lines)


@pytest.mark.parametrize(
    ("attack", "new"),
    [
        ("dreambooth", {"caption_dropout": 0.0, "captions": False, "photo_count": 0}),
        ("rounds", {"attack": "dreambooth", "caption_dropout": 0.0}),
        ("of-nobody", {"invented_later": 3}),
    ],
)
def test_a_setting_that_an_older_version_did_not_know_counts_as_its_default(
    tmp_path: Path, attack: str, new: dict[str, Any]
) -> None:
    lines = _two_cells(tmp_path, attack, {}, {"configuration": {"steps": 300, **new}})
    assert value(pick(lines, "attack", f"{attack} (steps=100)").protected) == 0.2
    assert value(pick(lines, "attack", f"{attack} (steps=300)").protected) == 0.5
    assert value(pick(lines, "attack", f"{attack} (steps=300)").original) == 0.8


@pytest.mark.parametrize(("attack", "of"), [("dreambooth", {}), ("rounds", {"attack": "lora"})])
def test_a_new_setting_that_is_not_at_its_default_tells_cells_apart(
    tmp_path: Path, attack: str, of: dict[str, Any]
) -> None:
    new = {"configuration": {**of, "caption_dropout": 0.1, "photo_count": 0}}
    lines = _two_cells(tmp_path, attack, {"configuration": of}, new)
    assert value(pick(lines, "attack", f"{attack} (caption_dropout=0.0)").protected) == 0.2
    assert value(pick(lines, "attack", f"{attack} (caption_dropout=0.1)").protected) == 0.5


def test_cells_that_are_equal_but_for_the_version_are_told_apart_by_it(tmp_path: Path) -> None:
    """Also where only one of them has the setting; without a name they would be one line."""
    origin = {"plugin": "apdm_attacks", "distribution": "apdm"}
    lines = _two_cells(
        tmp_path,
        "dreambooth",
        {"plugin": {**origin, "version": "0.1.0"}},
        {"plugin": {**origin, "version": "0.2.0"}, "configuration": {"caption_dropout": 0.0}},
    )
    assert value(pick(lines, "attack", "dreambooth (of 0.1.0)").protected) == 0.2
    assert value(pick(lines, "attack", "dreambooth (of 0.2.0)").protected) == 0.5
    assert value(pick(lines, "attack", "dreambooth (of 0.2.0)").original) == 0.8


def test_one_attack_in_two_precisions_is_told_apart_by_them(tmp_path: Path) -> None:
    lines = _two_cells(tmp_path, "lora", {"dtype": "float32"}, {"dtype": "bfloat16"})
    assert value(pick(lines, "attack", "lora (dtype=fp32)").protected) == 0.2
    assert value(pick(lines, "attack", "lora (dtype=bf16)").protected) == 0.5
    assert value(pick(lines, "attack", "lora (dtype=bf16)").original) == 0.8


def test_cells_with_other_photos_of_one_number_are_told_apart(tmp_path: Path) -> None:
    def photos(letter: str) -> dict[str, Any]:
        files = [{"name": f"{n}.png", "sha256": letter * 64} for n in range(4)]
        words = {"name": "person-1", "class_noun": "person", "identifier": "sks"}
        return {"subject": {**words, "photos": {"files": files}}}

    lines = _two_cells(tmp_path, "lora", photos("a"), photos("b"))
    found = [line for line in lines if line.role == "attack"]
    assert sorted(value(line.protected) for line in found) == [0.2, 0.5]
    assert sorted(value(line.original) for line in found) == [0.6, 0.8]
    assert all(line.label.startswith("lora (photos ") for line in found)


def _bobs(root: Path, changes: dict[str, dict[str, Any]]) -> tuple[list[Line], Comparison]:
    """A run with two cells of a neighbour `bob` on each model, with other manifests."""
    rows = both("lora", 0.6, 0.2)
    for name, values in {"one": (0.7, 0.1), "two": (0.8, 0.7)}.items():
        for arm, number in zip(("original", "protected"), values, strict=True):
            cell = f"{arm}-{name:0>8}"
            rows.append(
                row("neighbour", arm, score(number), attack="dreambooth", topic="bob", cell=cell)
                | {"images": f"evaluation/images/{cell}"}
            )
    run = make_run(root, rows=rows)
    for name, fields in changes.items():
        for arm, shared in (("original", True), ("protected", False)):
            folder = (root / "_control" if shared else run / "attacks") / f"{arm}-{name:0>8}"
            folder.mkdir(parents=True)
            control = None if shared else f"original-{name:0>8}"
            manifest = {"kind": "attack", "attack": "dreambooth", "control": control, **fields}
            (folder / "manifest.json").write_text(json.dumps(manifest))
    comparison = compare_runs(open_runs(root, []))
    return [one for one in comparison.runs[0].lines if one.role == "neighbour"], comparison


def _photos(*names: str, folder: str) -> dict[str, Any]:
    files = [{"name": name, "sha256": name * 64} for name in names]
    words = {"name": "bob", "class_noun": "person", "identifier": "sks"}
    return {"subject": {**words, "photos": {"sources": [folder], "files": files}}}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"one": _photos("a", folder="/family/bob"), "two": _photos("b", folder="/club/bob")},
            "bob (photos ",
        ),
        ({"one": {"configuration": {"steps": 5}}, "two": {"configuration": {"steps": 9}}},
         "bob (steps="),
        ({"one": {}, "two": {}}, "bob (cell "),
        ({}, "bob (cell "),
    ],
)  # fmt: skip
def test_two_neighbours_of_one_name_are_told_apart(
    changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    lines, _ = _bobs(tmp_path, changes)
    assert len({line.label for line in lines}) == len(lines) == 2
    assert all(line.label.startswith(told) for line in lines)
    values = {"protected-00000one": 0.1, "protected-00000two": 0.7}
    for line in lines:
        cell = str(line.pictures.protected).rpartition("/")[2]
        assert value(line.protected) == values.pop(cell)
        assert line.original is not None


def test_of_a_neighbour_whose_photos_changed_the_newest_counts(tmp_path: Path) -> None:
    older = {**_photos("a", folder="/family/bob"), "created": "2026-01-02"}
    newer = {**_photos("a", "b", folder="/family/bob"), "created": "2026-01-03"}
    (line,), comparison = _bobs(tmp_path, {"one": newer, "two": older})
    assert line.label == "bob" and value(line.protected) == 0.1
    gone = [one.what for one in comparison.runs[0].problems if "photos changed" in one.why]
    assert len(gone) == 2 and all("two " in what for what in gone)


@pytest.mark.parametrize(
    ("differ", "told"),
    [
        ({"one": {"dtype": "float32"}, "two": {"dtype": "bfloat16"}}, "bob (dtype="),
        ({"one": {"versions": {"apdm": "1"}}, "two": {"versions": {"apdm": "2"}}}, "bob (of "),
    ],
)
def test_a_neighbour_of_the_same_photos_is_never_left_out(
    differ: dict[str, dict[str, Any]], told: str, tmp_path: Path
) -> None:
    times = {"one": "2026-01-02", "two": "2026-01-03"}
    changes = {
        name: {**_photos("a", folder="/family/bob"), "created": times[name], **fields}
        for name, fields in differ.items()
    }
    lines, comparison = _bobs(tmp_path, changes)
    assert sorted(value(line.protected) for line in lines) == [0.1, 0.7]
    assert all(line.label.startswith(told) for line in lines)
    assert not [one for one in comparison.runs[0].problems if "left out" in one.what]


def test_a_missing_control_arm_is_said(tmp_path: Path) -> None:
    make_run(tmp_path, rows=[attack_row("lora", "protected", score(0.2)), *levels()])
    comparison = compare_runs(open_runs(tmp_path, []))
    assert "No control arm for lora" in comparison.warnings[0]
    assert "the attack may simply be weak" in comparison.runs[0].verdict


def test_an_arm_that_was_attacked_and_cannot_be_scored_is_not_called_unattacked(
    tmp_path: Path,
) -> None:
    black = score(None, n=0, skipped=30)
    why = "every picture was skipped (30 of one colour)"
    for arm, other in (("protected", "original"), ("original", "protected")):
        rows = [attack_row("lora", arm, black), attack_row("lora", other, score(0.6))]
        make_run(tmp_path, arm, rows=rows + levels())
        comparison = compare_runs(open_runs(tmp_path, [arm]))
        (run,) = comparison.runs
        said = [f"dino of lora has no value for the {arm} model: {why}."]
        assert list(comparison.warnings) == said
        assert run.answer.startswith("Nothing can be said about the protection: ")
        assert f"on the {arm}" in run.answer and why in run.answer and why in run.verdict
        assert "was run" not in run.answer and "without the same attack" not in run.answer


def test_a_control_with_other_seeds_is_not_called_missing(tmp_path: Path) -> None:
    rows = [
        attack_row("lora", "original", score(0.6), seed=1),
        attack_row("lora", "protected", score(0.2), seed=0),
    ]
    make_run(tmp_path, rows=rows + levels())
    comparison = compare_runs(open_runs(tmp_path, []))
    (said,) = comparison.warnings
    assert "different seeds" in said
    assert "other seeds" in comparison.runs[0].answer


def test_attacks_that_failed_or_wait_for_scores_are_listed(tmp_path: Path) -> None:
    run = make_run(tmp_path, unavailable=[{"metric": "clip-t", "reason": "no weights"}])
    failed = run / "attacks" / "heal-0123456789ab.partial"
    failed.mkdir()
    (failed / "failure.json").write_text('{"error": "NaN loss"}')
    (run / "attacks" / "late-0123456789ab").mkdir()
    problems = compare_runs(open_runs(tmp_path, [])).runs[0].problems
    assert [(one.what, one.why) for one in problems] == [
        ("attack heal-0123456789ab failed", "NaN loss"),
        (
            "attack late-0123456789ab is not scored",
            f"run: apdm evaluate photos-person --out {tmp_path}",
        ),
        ("clip-t is not available", "no weights"),
    ]


def test_an_attack_that_waits_is_scored_as_the_others_were(tmp_path: Path) -> None:
    run = make_run(tmp_path / "my runs")
    (run / "attacks" / "late-0123456789ab").mkdir()
    file = run / "evaluation" / "scores.json"
    asked = {
        "metrics": ["dino"], "weights": {"dino": "models/dino"}, "images": 4, "steps": 2,
        "prompts": "my prompts.txt", "class_images": 2, "seed": 3, "photos": ["/home/secret/moved"],
    }  # fmt: skip
    scores = {**json.loads(file.read_text()), "asked": asked, "dtype": "bfloat16"}
    file.write_text(json.dumps(scores))
    comparison = compare_runs(open_runs(tmp_path / "my runs", []))
    (problem,) = comparison.runs[0].problems
    assert shlex.split(problem.why.removeprefix("run: ")) == [
        "apdm", "evaluate", "photos-person", "--metrics", "dino", "--weights", "dino=models/dino",
        "--photos", "PHOTOS", "--prompts", "my prompts.txt", "--images", "4",
        "--class-images", "2", "--steps", "2", "--seed", "3", "--dtype", "bf16",
        "--out", str(tmp_path / "my runs"),
    ]  # fmt: skip


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


def test_a_command_in_a_hint_can_be_typed_as_it_stands(tmp_path: Path) -> None:
    root = tmp_path / "my runs"
    (make_run(root, "my run") / "evaluation" / "scores.json").unlink()
    with pytest.raises(ApdmError) as caught:
        open_runs(root, ["my run"])
    words = shlex.split(caught.value.hint.removeprefix("Run: "))
    assert words == ["apdm", "evaluate", "my run", "--out", str(root)]
    make_run(root, "my run", rows=utility_rows())
    with pytest.raises(ApdmError, match="no scored attack") as caught:
        open_runs(root, ["my run"])
    assert caught.value.hint.endswith(shlex.join(words))


@pytest.mark.parametrize(("inside", "typed"), [("", "."), ("evaluation", "..")])
def test_a_run_that_is_opened_from_inside_has_its_name_and_its_controls(
    inside: str, typed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run(tmp_path, "mine", both("lora", 0.6, 0.2))
    monkeypatch.chdir(folder / inside)
    (run,) = open_runs(Path("runs"), [typed])
    assert all(run.cell_manifest(row)["arm"] == row.arm for row in run.scores.rows)
    (folder / "evaluation" / "scores.json").unlink()
    with pytest.raises(ApdmError) as caught:
        open_runs(Path("runs"), [typed])
    words = shlex.split(caught.value.hint.removeprefix("Run: "))
    assert words[:4] == ["apdm", "evaluate", "mine", "--out"]
    assert Path(words[4]).resolve() == tmp_path.resolve()


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
    assert commands[1] == "apdm attack photos-person --plugin dreambooth --seeds 3"
    assert commands[3] == "apdm attack photos-person --plugin lora --plugin textual-inversion"
    assert "--steps 20 --guidance 3.0" in " ".join(commands)
    assert "/home/secret" not in compare_runs(open_runs(tmp_path, [])).model_dump_json()


def test_commands_repeat_what_an_attack_had_otherwise(tmp_path: Path) -> None:
    rows = [
        attack_row("lora", "protected", score(0.2), variant="unseen photos, rank=8", cell="one"),
        attack_row("lora", "protected", score(0.2), variant="flip", cell="two"),
    ]
    run = make_run(tmp_path, rows=rows)
    for cell, change in (
        (
            "one",
            {
                "asked": {"set": {"rank": 8}},
                "subject": {
                    "name": "person-1",
                    "class_noun": "person",
                    "identifier": "zwx",
                    "photos": {"files": [{"name": "9.png", "sha256": "9"}]},
                },
            },
        ),
        ("two", {"asked": {"set": {}}, "transforms": ["flip"]}),
    ):
        file = run / "attacks" / cell / "manifest.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    commands = compare_runs(open_runs(tmp_path, [])).runs[0].provenance.commands
    assert commands[1:3] == (
        "apdm attack photos-person --plugin lora --photos OTHER_PHOTOS --identifier zwx "
        "--set rank=8",
        "apdm attack photos-person --plugin lora --transform flip",
    )


def test_a_single_row_needs_no_more(tmp_path: Path) -> None:
    """The smallest evaluation: one attack, one arm, no floor, no pictures, no logs."""
    bare = attack_row("lora", "protected", score(0.2, spread=None))
    make_run(tmp_path, rows=[{**bare, "images": None}, row("floor", "original", label="floor")])
    comparison = compare_runs(open_runs(tmp_path, []))
    assert comparison.runs[0].lines[0].label == "lora"


def test_scores_of_an_older_version_are_refused_with_the_command_that_scores_again(
    tmp_path: Path,
) -> None:
    file = make_run(tmp_path) / "evaluation" / "scores.json"
    older = json.loads(file.read_text()) | {"schema": 1, "prompts": {"set": "identity", "n": 16}}
    file.write_text(json.dumps(older))
    with pytest.raises(ApdmError) as caught:
        open_runs(tmp_path, [])
    assert "schema 1, this one reads 2" in caught.value.what
    again = f"apdm evaluate photos-person --out {tmp_path} --images 16"
    assert caught.value.hint.endswith(again)


def test_scores_of_a_metric_that_nothing_describes_are_refused(tmp_path: Path) -> None:
    make_run(tmp_path, metrics=[meaning for meaning in METRICS if meaning.name != "brisque"])
    with pytest.raises(ApdmError, match="nothing says what brisque means"):
        open_runs(tmp_path, [])


def test_a_metric_is_what_it_says_whatever_its_name(tmp_path: Path) -> None:
    """`kidney` and `fid-like` are no distances, `dinosaur` leads because it says so."""
    dinosaur = METRICS[0].model_copy(
        update={"name": "dinosaur", "title": "Likeness", "explanation": "How alike they are."}
    )
    kidney = dinosaur.model_copy(
        update={"name": "kidney", "kind": "quality", "leads": False, "better_for_others": "lower"}
    )
    rows = [
        attack_row("lora", "original", score(0.6, "dinosaur"), score(3.0, "kidney")),
        attack_row(
            "lora", "protected", score(0.2, "dinosaur"), score(2.0, "kidney", n=28, skipped=2)
        ),
        *levels("dinosaur"),
        row("utility", "protected", score(5.0, "kidney"), topic="class pictures"),
    ]
    make_run(tmp_path, rows=rows, metrics=[kidney, dinosaur])
    run = compare_runs(open_runs(tmp_path, [])).runs[0]
    assert "similarity 0.20" in run.verdict and "kidney" not in run.verdict
    assert [(one.metric, one.title, one.kind) for one in run.metrics] == [
        ("dinosaur", "Likeness", "similarity"),
        ("kidney", "Likeness", "quality"),
    ]
    assert pick(list(run.lines), "utility", metric="kidney").better == "lower"
    distance = kidney.model_copy(update={"kind": "distance"})
    make_run(tmp_path, "sets", rows=rows, metrics=[distance, dinosaur])
    (said,) = compare_runs(open_runs(tmp_path, ["sets"])).warnings
    assert said.startswith("kidney of the attacks is left out: 30 pictures")


def test_of_several_metrics_that_may_lead_the_first_one_asked_for_does(tmp_path: Path) -> None:
    other = METRICS[0].model_copy(update={"name": "face"})
    for name, order in (("a", ("face", "dino")), ("b", ("dino", "face"))):
        values = {"face": score(0.11, "face"), "dino": score(0.22, "dino")}
        rows = [attack_row("lora", "protected", *(values[one] for one in order))]
        make_run(tmp_path, name, rows=rows, metrics=[METRICS[0], other])
    runs = compare_runs(open_runs(tmp_path, ["a", "b"])).runs
    assert ["similarity 0.11" in run.verdict for run in runs] == [True, False]


def _two_runs(root: Path, *changes: dict[str, Any]) -> None:
    """Evaluated runs `run-0` and `run-1`, with `changes` of their scores."""
    for number, change in enumerate(changes):
        file = make_run(root, f"run-{number}") / "evaluation" / "scores.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **change}))


def test_runs_that_were_evaluated_in_two_precisions_are_compared_and_it_is_said(
    tmp_path: Path,
) -> None:
    _two_runs(tmp_path, {"dtype": "float32"}, {"dtype": "bfloat16"})
    (warning,) = compare_runs(open_runs(tmp_path, ["run-0", "run-1"])).warnings
    assert "in different precisions (run-0: fp32, run-1: bf16)" in warning
    _two_runs(tmp_path, {"dtype": "float32"}, {})  # a version of before kept none
    assert compare_runs(open_runs(tmp_path, ["run-0", "run-1"])).warnings == ()


def test_a_hint_draws_as_the_run_was_drawn(tmp_path: Path) -> None:
    _two_runs(tmp_path, {"asked": {"images": 4, "steps": 2}, "dtype": "bfloat16"})
    file = tmp_path / "run-0" / "evaluation" / "scores.json"
    scores = json.loads(file.read_text())
    next(one for one in scores["rows"] if one["role"] == "attack")["scores"][0]["n"] = 9
    file.write_text(json.dumps(scores))
    with pytest.raises(ApdmError, match="different numbers of pictures") as caught:
        compare_runs(open_runs(tmp_path, []))
    assert caught.value.hint.endswith(f" --steps 2 --dtype bf16 --out {tmp_path}")


def test_a_first_evaluation_draws_as_the_attack_drew_on_the_way(tmp_path: Path) -> None:
    run = make_run(tmp_path, rows=both("lora", 0.6, 0.2))
    (run / "evaluation" / "scores.json").unlink()
    (file,) = (run / "attacks").glob("*/manifest.json")
    drawn = {"asked": {"pictures": {"images": 4, "steps": 2}}, "dtype": "bfloat16"}
    file.write_text(json.dumps({**json.loads(file.read_text()), **drawn}))
    with pytest.raises(ApdmError, match="has no scores yet") as caught:
        open_runs(tmp_path, [run.name])
    again = f"apdm evaluate {run.name} --images 4 --steps 2 --dtype bf16 --out {tmp_path}"
    assert caught.value.hint == f"Run: {again}"
