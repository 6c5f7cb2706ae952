"""`--log tensorboard`: event files beside a log hold what it holds, also after a resume."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest

from apdm_cli.errors import ApdmError
from apdm_cli.runs.events import PREFIX
from apdm_cli.runs.jsonl import StepLog, read_rows, truncate_log

needs_tensorboard = pytest.mark.usefixtures("tensorboard")


@pytest.fixture
def tensorboard() -> None:
    pytest.importorskip("tensorboard", reason="the extra apdm[tensorboard] is not installed")


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Name → (step, value) as TensorBoard itself reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: Any = EventAccumulator(str(folder))
    found.Reload()
    return {
        name: [(event.step, event.value) for event in found.Scalars(name)]
        for name in found.Tags()["scalars"]
    }


@pytest.mark.extras
@needs_tensorboard
def test_every_number_is_a_curve(tmp_path: Path) -> None:
    with StepLog(tmp_path / "log.jsonl", events=True) as log:
        for step in range(3):
            row = {"phase": "a", "step": step, "index": step, "loss": step / 4, "rate": None}
            log.append(row)
    assert curves(tmp_path) == {"loss": [(0, 0.0), (1, 0.25), (2, 0.5)]}


@pytest.mark.extras
@needs_tensorboard
def test_a_resumed_log_has_no_step_twice_and_none_less(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    with StepLog(file) as log:  # begun without event files
        log.append({"step": 0, "loss": 1.0})
    for first in (1, 2):
        truncate_log(file, first)
        with StepLog(file, events=True) as log:
            for step in range(first, first + 3):
                log.append({"step": step, "loss": 1.0 + step})
    assert curves(tmp_path)["loss"] == [(row["step"], row["loss"]) for row in read_rows(file)]
    assert len(list(tmp_path.glob(f"{PREFIX}*"))) == 1


@pytest.mark.extras
@needs_tensorboard
def test_a_loss_that_is_no_number_is_no_error(tmp_path: Path) -> None:
    with StepLog(tmp_path / "log.jsonl", events=True) as log:
        log.append({"step": 0, "loss": math.nan})
    assert len(curves(tmp_path)["loss"]) == 1


def test_without_being_asked_there_are_no_event_files(tmp_path: Path) -> None:
    with StepLog(tmp_path / "log.jsonl") as log:
        log.append({"step": 0, "loss": 1.0})
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_without_the_package_one_line_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ApdmError, match=r"pip install 'apdm\[tensorboard\]'"):
        StepLog(tmp_path / "log.jsonl", events=True)
