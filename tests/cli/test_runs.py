"""`apdm runs`: what files alone tell about runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from apdm_cli.cli import console
from apdm_cli.cli.main import build_app
from apdm_cli.cli.runs import format_age
from apdm_cli.runs.disk import format_bytes, tree_size
from apdm_cli.runs.lock import FolderLock
from tests.made_runs import add_attack, compare, fail_attack, interrupt_attack, make_run, write


def listed(root: Path) -> dict[str, Any]:
    result = CliRunner().invoke(build_app({"runs"}), ["runs", "--out", str(root), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def shown(monkeypatch: pytest.MonkeyPatch, root: Path, width: int) -> str:
    monkeypatch.setattr(console.stdout, "_width", width)
    result = CliRunner().invoke(build_app({"runs"}), ["runs", "--out", str(root)])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_everything_about_a_compared_run(tmp_path: Path) -> None:
    run = make_run(tmp_path, "ann")
    add_attack(run, "lora-1", control="lora-0")
    add_attack(run, "lora-2", control="lora-0")
    fail_attack(run, "heal-1")
    interrupt_attack(run, "rounds-1")
    compare(run, "An attacker needs 5 times as many steps.")
    (row,) = listed(tmp_path)["runs"]
    assert (row["name"], row["state"], row["subject"]) == ("ann", "done", "sks person")
    assert (row["attacks_done"], row["attacks_failed"], row["attacks_unfinished"]) == (2, 1, 1)
    assert row["verdict"] == "An attacker needs 5 times as many steps."
    assert row["bytes"] == tree_size(tmp_path / "ann")
    assert 0 <= row["age_seconds"] < 600


def test_the_size_counts_files_and_follows_no_link(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "big", 10_000)
    write(tmp_path / "folder" / "sub" / "small", 7)
    (tmp_path / "folder" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "folder" / "file").symlink_to(tmp_path / "elsewhere" / "big")
    assert tree_size(tmp_path / "folder") == 7
    assert tree_size(tmp_path / "folder" / "link") == 0
    assert tree_size(tmp_path / "nowhere") == 0


def test_a_running_run_is_one_that_somebody_holds(tmp_path: Path) -> None:
    make_run(tmp_path, "left", done=False)
    held = make_run(tmp_path, "held", done=False)
    lock = FolderLock(held.path)
    states = {row["name"]: row["state"] for row in listed(tmp_path)["runs"]}
    lock.release()
    assert states == {"left": "interrupted", "held": "running"}


def test_a_failed_and_a_broken_run_say_why(tmp_path: Path) -> None:
    failed = make_run(tmp_path, "failed", done=False)
    failed.fail("loss is NaN")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("{")
    (tmp_path / "no-run").mkdir()
    rows = {row["name"]: row for row in listed(tmp_path)["runs"]}
    assert set(rows) == {"failed", "broken"}
    assert (rows["failed"]["state"], rows["failed"]["problem"]) == ("failed", "loss is NaN")
    assert rows["broken"]["state"] == "unreadable" and "broken" in rows["broken"]["problem"]


def test_people_read_the_answer_and_where_its_report_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = make_run(tmp_path, "ann")
    compare(run, "Work factors at a likeness of 0.47.")
    assert "Work factors at a likeness" in shown(monkeypatch, tmp_path, 200)
    said = {"verdict": "Work factors at a likeness of 0.47.", "answer": "About 5 times as many."}
    (run.path / "comparison.json").write_text(json.dumps({"runs": [said]}))
    write(run.path / "report.html", 9)
    text = shown(monkeypatch, tmp_path, 200)
    assert "About 5 times as many." in text and "Work factors" not in text
    assert f"Report: {run.path / 'report.html'}" in text
    (row,) = listed(tmp_path)["runs"]
    assert row["answer"] == said["answer"] and row["report"] == str(run.path / "report.html")


def test_an_interrupted_run_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make_run(tmp_path, "ann", done=False)
    assert "--name ann ... --resume" in " ".join(shown(monkeypatch, tmp_path, 200).split())
    make_run(tmp_path, "bob")
    assert [row["hint"] is None for row in listed(tmp_path)["runs"]] == [True, False]


@pytest.mark.parametrize("text", ["[]", "{}", '{"runs": [1]}', '{"runs": [{"verdict": 3}]}', "{"])
def test_a_damaged_comparison_is_no_verdict(tmp_path: Path, text: str) -> None:
    run = make_run(tmp_path, "ann")
    (run.path / "comparison.json").write_text(text)
    (row,) = listed(tmp_path)["runs"]
    assert row["verdict"] is None and row["state"] == "done"


def test_the_newest_comes_first(tmp_path: Path) -> None:
    for name in ("b-first", "a-second", "c-third"):
        make_run(tmp_path, name)
    assert [row["name"] for row in listed(tmp_path)["runs"]] == ["c-third", "a-second", "b-first"]


def test_what_all_runs_share_is_counted_apart(tmp_path: Path) -> None:
    add_attack(make_run(tmp_path, "ann"), "lora-1", control="lora-0")
    write(tmp_path / "_cache" / "latents" / "a", 50)
    shared = listed(tmp_path)["shared_bytes"]
    assert shared["cache"] == 50 and shared["control"] == tree_size(tmp_path / "_control")


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_is_wider_than_the_terminal_and_no_word_is_lost(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, width: int
) -> None:
    run = make_run(tmp_path, "a-rather-long-name-of-a-run-of-somebody")
    for key in ("lora-1", "lora-2"):
        add_attack(run, key)
    fail_attack(run, "heal-1")
    compare(run, "An attacker needs about 5 times as many steps to get a likeness. " * 3)
    text = shown(monkeypatch, tmp_path, width)
    assert max(map(len, text.splitlines())) <= width
    for word in ("done", "2 done, 1 failed", format_bytes(tree_size(run.path)), "likeness"):
        assert word in text
    assert ("sks person" in text) == (width >= 76)


def test_a_long_name_is_shown_whole_because_it_is_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "photos-of-somebody-with-a-long-name-person"
    make_run(tmp_path, name)
    lines = shown(monkeypatch, tmp_path, 50).splitlines()
    assert max(map(len, lines)) <= 50
    beside = lines[1].index("  done")
    assert "".join(line[:beside].strip() for line in lines[1:]).startswith(name)


def test_no_run_says_how_to_make_one(tmp_path: Path) -> None:
    result = CliRunner().invoke(build_app({"runs"}), ["runs", "--out", str(tmp_path / "none")])
    assert result.exit_code == 0
    assert "apdm protect PHOTOS --class NOUN" in result.stdout


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 bytes"), (1, "1 byte"), (999, "999 bytes"), (1000, "1.0 kB"), (99_960, "100 kB"),
     (999_999, "1.0 MB"), (5_300_000_000, "5.3 GB"), (4 * 10**15, "4000 TB")],
)  # fmt: skip
def test_sizes_in_words(count: int, words: str) -> None:
    assert format_bytes(count) == words


def test_what_is_shared_is_said_below_the_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make_run(tmp_path, "ann")
    assert "Shared by all runs" not in shown(monkeypatch, tmp_path, 80)
    write(tmp_path / "_cache" / "latents" / "a", 50)
    text = shown(monkeypatch, tmp_path, 80)
    assert "Shared by all runs: class pictures and latents 50 bytes." in text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, ""), (0, "now"), (59, "now"), (60, "1 min"), (3599, "59 min"), (7300, "2 h"),
     (86400, "1 day"), (200_000, "2 days")],
)  # fmt: skip
def test_ages_in_words(seconds: float | None, words: str) -> None:
    assert format_age(seconds) == words


@pytest.mark.parametrize(
    ("created", "age"), [("2000-01-01T00:00:00", True), ("some day", False), (None, False)]
)
def test_a_run_has_an_age_where_its_manifest_tells_a_time(
    tmp_path: Path, created: str | None, age: bool
) -> None:
    run = make_run(tmp_path, "ann")
    times = {"created": created, "finished": created}
    manifest = json.loads((run.path / "manifest.json").read_text())
    (run.path / "manifest.json").write_text(json.dumps({**manifest, **times}))
    (row,) = listed(tmp_path)["runs"]
    assert (row["age_seconds"] is not None) == age
    if age:
        assert row["age_seconds"] > 20 * 365 * 86400


def test_the_size_of_a_single_file_and_of_one_that_vanishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "file", 7)
    assert tree_size(tmp_path / "file") == 7

    def gone(self: Path, **_: object) -> bool:
        raise FileNotFoundError(self)

    monkeypatch.setattr(Path, "is_file", gone)
    assert tree_size(tmp_path / "file") == 0
