"""The table of rivals: jobs of every method, and what is read from them, by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from apdm_cli.extension.manager import build_plugin_manager, protections
from benchmarks import rivals, trials
from benchmarks.ground import Ground, Person, Question, digest, whole_settings
from tests.benchmarks.test_pocket_summary import BUDGETS, LEARNT, result, row, rows_of
from tests.clusters import StandIn, stand_in

__all__ = ["stand_in"]  # a fixture

PERSON = Person("person", 1_000_700, 1_000_701)


def test_every_protection_is_in_the_table_with_settings_of_its_own() -> None:
    assert set(rivals.METHODS) == set(protections(build_plugin_manager()))
    jobs = rivals.all_jobs(list(rivals.METHODS), rivals.WHO, 2)
    assert len(jobs) == len(rivals.METHODS) * 3 * 2
    assert len({digest(one) for one in jobs}) == len(jobs)
    assert {one["variant"]: one["settings"].get("steps") for one in jobs}["naive"] == 3000


def test_a_job_of_apdm_is_what_it_was_before_there_were_methods() -> None:
    """A key more, and no log would answer any more."""
    settings = whole_settings({})
    before = trials.job(PERSON, "pocket", settings, rivals.QUESTIONS, Ground())
    named = trials.job(PERSON, "pocket", settings, rivals.QUESTIONS, Ground(), method="apdm")
    assert before == named and "method" not in before
    other = trials.job(PERSON, "pocket", settings, rivals.QUESTIONS, Ground(), method="naive")
    assert other == {**before, "method": "naive"}


def test_a_machine_without_this_checkout_is_refused_in_a_sentence(
    tmp_path: Path, stand_in: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    """It might have other code, and no measurement would show that."""

    def within(patch: pytest.MonkeyPatch) -> None:
        for marker in tmp_path.glob(".tmp-cluster-*"):
            marker.unlink()

    stand_in.within = within
    options = ["--cluster", "auto", "--results", str(tmp_path), "--root", str(tmp_path / "root")]
    with pytest.raises(SystemExit) as ended:
        rivals.main(["naive", "--identities", "1", "--seeds", "1", *options])
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("--cluster: ") and "does not see the folder of runs" in said
    assert [path.name for path in tmp_path.iterdir()] == ["rivals.jsonl"]


def test_another_method_protects(tmp_path: Path) -> None:
    place = Ground(tmp_path)
    settings = whole_settings({"steps": 1, "prior_pictures": 2, "sampler_steps": 1}, "naive")
    assert "steps_outer" not in settings
    run = place.protect(PERSON, settings, "someone", 0, "naive")
    assert run.manifest["method"] == "naive"
    assert len(run.metrics_log.read_text().splitlines()) == 1


def test_a_line_has_both_attacks() -> None:
    """DreamBooth is at .5 of the original's 1 where LoRA is at .8."""
    rows = [_protected("weak", 0.8, 0.9), _protected("strong", 0.4, 0.6)]
    lines = rivals.table(rows).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| strong", "| weak"]
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells[2] == "50% ± 0%"  # (.8 − .4) / .8
    assert cells[4] == "25% ± 0%"  # (.8 − .6) / .8
    assert cells[5] == "1.20 ± 0.00"
    assert cells[-2:] == ["100 ± 0", "1"]


def test_attacks_of_a_suite_are_asked_besides_and_have_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = tmp_path / "mine.toml"
    suite.write_text('[[attack]]\nname = "adaptive"\n')
    (usual,) = rivals.all_jobs(["apdm"], rivals.WHO[:1], 1)
    (more,) = rivals.all_jobs(["apdm"], rivals.WHO[:1], 1, str(suite))
    *before, last = more["questions"]
    assert {**more, "questions": before} == usual
    assert last == trials.table_of(Question("suite", (0,), suite=str(suite)))

    rows = [_protected("weak", 0.8, 0.9), _protected("strong", 0.4, 0.6)]
    for one in rows:
        own = one["result"]["rows"]
        one["result"]["rows"] = [r for r in own if r["question"] in {None, *rivals.ASKED}]
    curve = dict.fromkeys(BUDGETS, 0.0) | {1.0: 0.6, 3.0: 1.0}
    for arm, values in (("original", LEARNT), ("protected", tuple(curve.values()))):
        rows[0]["result"]["rows"] += rows_of(arm, {"adaptive": values})  # on the other it failed
    log = tmp_path / "rivals_mine.jsonl"
    log.write_text("".join(f"{json.dumps(one)}\n" for one in rows))
    rivals.main(["--summary", "--suite", str(suite), "--results", str(tmp_path)])
    printed = capsys.readouterr().out.rpartition("\n\n")[2].splitlines()
    titles, _, *lines = [[cell.strip() for cell in line[1:-1].split("|")] for line in printed]
    after = [f"after {budget:g}" for budget in BUDGETS]
    assert titles == ["attack", "model", *after, "work factor", "cut"]
    original, weak, strong = lines
    assert original[:2] == ["adaptive", "original"] and weak[:2] == ["", "weak"]
    assert original[2:-2] == [f"{value:.2f}" for value in LEARNT]
    assert weak[2:-2] == [f"{value:.2f}" for value in curve.values()]
    assert weak[-1] == "25% ± 0%"  # (.8 − .6) / .8
    assert strong == ["", "strong", *["–"] * (len(BUDGETS) + 2)]
    assert (tmp_path / "rivals_mine.json").is_file() and not (tmp_path / "rivals.json").exists()


def test_a_method_counts_as_it_was_measured_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "rivals.jsonl"
    rows = [_protected("apdm", 0.8, 0.9), _protected("apdm", 0.4, 0.6)]
    rows[0]["job"]["settings"] = {"of": "a former preset"}
    log.write_text("".join(f"{json.dumps(one)}\n" for one in rows))
    rivals.main(["--summary", "--results", str(tmp_path)])
    (line,) = capsys.readouterr().out.splitlines()[2:]
    assert "| 50% ± 0% |" in line and line.endswith("| 1 |")
    assert json.loads((tmp_path / "rivals.json").read_text())["summary"]["apdm"]["cut_seen"] == 0.5


def _protected(name: str, dreambooth: float, lora: float) -> dict[str, Any]:
    """Half-way is never reached, or at once: the work factors are not the point."""

    def curve(at_one: float) -> tuple[float, ...]:
        values = dict.fromkeys(BUDGETS, 0.0) | {1.0: at_one, 2.0: at_one, 3.0: 1.0}
        return tuple(values.values())

    found = row(1)
    found["job"]["variant"] = name
    found["result"] = result({"seen": curve(dreambooth), "other": LEARNT})
    found["result"]["rows"] += [
        *rows_of("original", {"lora": LEARNT}),
        *rows_of("protected", {"lora": curve(lora)}),
    ]
    return found


def test_unknown_methods_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        rivals.main(["emma"])
    assert "there is no method emma; known are apdm, naive" in capsys.readouterr().err
