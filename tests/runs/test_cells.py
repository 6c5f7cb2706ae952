"""Cells: finished as a whole, found by what they were made from, failures on record."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from apdm_cli.errors import ApdmError
from apdm_cli.runs.cells import Cell, CellState, cell_key, failed_cells, finished_cells
from apdm_cli.runs.lock import Held

LORA = {"attack": "lora", "arm": "protected", "seed": 0, "config": {"rank": 4, "rate": 1e-4}}


def state(cell: Cell) -> CellState:
    return cell.state  # a call, so that the type checker expects it to change


def test_the_key_is_readable_and_follows_the_content():
    key = cell_key(LORA)
    assert key.startswith("lora-protected-seed0-")
    assert cell_key(dict(reversed(LORA.items()))) == key
    assert cell_key({**LORA, "config": {"rate": 1e-4, "rank": 4}}) == key
    changed = [
        {**LORA, "config": {"rank": 8, "rate": 1e-4}},
        {**LORA, "model": "0a"},
        {**LORA, "seed": 1},
    ]
    assert len({key, *map(cell_key, changed)}) == 4


def test_the_key_is_pinned():
    # Finished work is found again by it after an upgrade, too.
    assert cell_key({"attack": "lora", "seed": 0}) == "lora-seed0-b10970b89690"


def test_keys_are_safe_file_names():
    key = cell_key({"attack": "../Übung / 1", "seed": None}, readable=("attack", "seed"))
    assert key.startswith("ubung-1-") and "/" not in key


def test_a_cell_is_there_when_it_is_finished(tmp_path):
    cell = Cell(tmp_path / "attacks", "lora-0")
    assert state(cell) is CellState.ABSENT and not (tmp_path / "attacks").exists()
    with cell.writing() as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a.txt").write_text("x")
        assert state(cell) is CellState.PARTIAL
        assert finished_cells(tmp_path / "attacks") == []
    assert state(cell) is CellState.FINISHED
    assert (cell.path / "sub" / "a.txt").read_text() == "x"
    assert finished_cells(tmp_path / "attacks") == [cell.path]
    assert not cell.partial.exists()


def test_a_failure_is_recorded_and_the_next_try_begins_anew(tmp_path):
    cell = Cell(tmp_path, "lora-0")
    with pytest.raises(ApdmError), cell.writing() as folder:
        (folder / "half").touch()
        raise ApdmError("loss is NaN", "Lower the rate.")
    assert state(cell) is CellState.FAILED
    assert cell.failure["error"] == "loss is NaN" and cell.failure["hint"] == "Lower the rate."
    assert list(failed_cells(tmp_path)) == ["lora-0"] and finished_cells(tmp_path) == []
    with cell.writing() as folder:
        assert list(folder.iterdir()) == []
    assert state(cell) is CellState.FINISHED and failed_cells(tmp_path) == {}


def test_other_errors_are_recorded_with_their_type(tmp_path):
    cell = Cell(tmp_path, "x")
    with pytest.raises(ZeroDivisionError), cell.writing():
        _ = 1 / 0
    assert cell.failure["type"] == "ZeroDivisionError"


def test_an_interrupted_cell_goes_on_with_what_it_has(tmp_path):
    cell = Cell(tmp_path, "x")
    with pytest.raises(KeyboardInterrupt), cell.writing() as folder:
        (folder / "step-5").touch()
        raise KeyboardInterrupt
    assert state(cell) is CellState.PARTIAL
    with Cell(tmp_path, "x").writing() as folder:
        assert (folder / "step-5").exists()


def test_fresh_forgets_what_an_interrupted_try_left(tmp_path):
    cell = Cell(tmp_path, "x")
    (cell.begin() / "deep" / "er").mkdir(parents=True)
    assert list(cell.begin(fresh=True).iterdir()) == []


def test_a_rerun_replaces_the_result_only_when_it_is_done(tmp_path):
    cell = Cell(tmp_path, "x")
    for content in ("old", "new"):
        with cell.writing() as folder:
            (folder / "result").write_text(content)
            if content == "new":
                assert (cell.path / "result").read_text() == "old"
                assert state(cell) is CellState.FINISHED
    assert (cell.path / "result").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_failing_rerun_keeps_the_result(tmp_path):
    cell = Cell(tmp_path, "x")
    with cell.writing():
        pass
    with pytest.raises(ApdmError), cell.writing():
        raise ApdmError("no")
    assert state(cell) is CellState.FINISHED and failed_cells(tmp_path) == {}


@pytest.mark.skipif(sys.platform == "win32", reason="folders are not locked there")
def test_two_processes_do_not_share_a_cell(tmp_path):
    cell = Cell(tmp_path, "x")
    code = (
        "import sys; from pathlib import Path; from apdm_cli.runs.cells import Cell\n"
        "Cell(Path(sys.argv[1]), 'x').begin()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    root = Path(__file__).parents[2]
    with cell.writing() as folder:
        (folder / "mine").touch()
        other = subprocess.run(command, cwd=root, capture_output=True, text=True)
        assert "Another apdm process" in other.stderr
        assert (folder / "mine").exists()


def test_a_claimed_cell_is_given_back_as_it_was_found(tmp_path):
    cell, other = Cell(tmp_path, "x"), Cell(tmp_path, "x")
    cell.claim()
    with pytest.raises(Held):
        other.claim()
    cell.let_go()
    assert state(cell) is CellState.ABSENT and list(tmp_path.iterdir()) == []
    with pytest.raises(KeyboardInterrupt), other.writing() as folder:
        (folder / "step-5").touch()
        raise KeyboardInterrupt
    cell.claim()
    cell.let_go()
    assert (cell.partial / "step-5").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="folders are not locked there")
def test_a_lock_on_a_folder_that_was_published_meanwhile_is_none(tmp_path, monkeypatch):
    """Opened under one name and renamed before it was locked, it is another cell's result."""
    cell, late = Cell(tmp_path, "x"), Cell(tmp_path, "x")
    opened = os.open

    def open_then_publish(path, flags, *rest):
        handle = opened(path, flags, *rest)
        if Path(path) == cell.partial and state(cell) is not CellState.FINISHED:
            monkeypatch.setattr(os, "open", opened)
            with cell.writing() as folder:
                (folder / "result").touch()
        return handle

    monkeypatch.setattr(os, "open", open_then_publish)
    cell.partial.mkdir()
    late.claim()
    assert state(cell) is CellState.FINISHED and list(late.partial.iterdir()) == []
    late.let_go()
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_no_folder_has_no_cells(tmp_path):
    assert finished_cells(tmp_path / "missing") == [] and failed_cells(tmp_path / "missing") == {}


def test_what_was_deleted_meanwhile_is_not_published(tmp_path):
    cell = Cell(tmp_path, "key")
    shutil.rmtree(cell.begin())
    cell.partial.mkdir()  # by another process, which has not done all of the work
    with pytest.raises(ApdmError, match="was deleted while the attack was running"):
        cell.finish()
    assert not cell.path.exists()
