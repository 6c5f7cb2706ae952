"""The step log survives being cut off anywhere."""

import math

import pytest

from apdm_cli.errors import ApdmError
from apdm_cli.runs.jsonl import StepLog, read_rows, truncate_log


def written(path, steps):
    with StepLog(path) as log:
        for step in steps:
            log.append({"step": step, "loss": step / 3})
        log.sync()


def steps(path):
    return [row["step"] for row in read_rows(path)]


def test_rows_come_back_and_are_there_at_once(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    log = StepLog(path)
    log.append({"step": 0, "loss": 1 / 3, "text": "a\nb é"})
    assert read_rows(path) == [{"step": 0, "loss": 1 / 3, "text": "a\nb é"}]
    log.append({"step": 1, "loss": math.nan})
    log.close()
    assert read_rows(path)[1]["loss"] is None
    assert path.read_bytes().count(b"\n") == 2


def test_no_file_has_no_rows(tmp_path):
    assert read_rows(tmp_path / "none") == []
    truncate_log(tmp_path / "none", 3)
    assert not (tmp_path / "none").exists()


def test_a_torn_last_line_is_left_out_then_cut_off(tmp_path):
    path = tmp_path / "log"
    written(path, range(3))
    whole = path.read_bytes()
    for cut in range(1, 8):
        path.write_bytes(whole[:-cut])
        assert steps(path) == [0, 1]
    written(path, [7])
    assert steps(path) == [0, 1, 7]


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b'{"step": 0}\n{"st\n{"step": 2}\n')
    with pytest.raises(ApdmError, match="line 2"):
        read_rows(path)


def test_resume_drops_the_steps_after_the_checkpoint(tmp_path):
    path = tmp_path / "log"
    written(path, range(10))
    kept = b"".join(path.read_bytes().splitlines(keepends=True)[:4])
    path.write_bytes(path.read_bytes() + b'{"step": 10, "lo')
    truncate_log(path, 4)
    assert path.read_bytes() == kept
    written(path, range(4, 6))
    assert steps(path) == [0, 1, 2, 3, 4, 5]


def test_rows_without_a_step_stay(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b'{"note": "x"}\n{"step": 5}\n')
    truncate_log(path, 0)
    assert read_rows(path) == [{"note": "x"}]
