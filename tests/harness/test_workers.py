"""One command, several workers: the same cells, each done once, whatever happens to a worker."""

from __future__ import annotations

import os
import signal
import time

import pytest

from apdm_cli.devices import resolve_devices
from apdm_cli.digests import folder_digest
from apdm_cli.errors import UsageError
from tests.harness.conftest import Place
from tests.harness.test_queue import Processes, _finished, posix, processes
from tests.processes import Apdm

__all__ = ["processes"]  # a fixture

TWO = ("--workers", "2", "--checkpoint-every", "1")


def _helper(processes: Processes, process: Apdm) -> int:
    """The id of the second worker of the command, once both halt in a cell."""
    (number,) = set(process.halted(processes.folder)) - {process.pid}
    return number


def _alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


@posix
def test_two_workers_do_every_cell_once_and_give_the_bytes_of_one(
    processes: Processes, place: Place
) -> None:
    command = processes.start(*TWO)
    _helper(processes, command)
    processes.go()
    statuses, said = _finished(command)
    assert statuses == ["done", "done"]
    assert len(processes.trained) == len(set(processes.trained)) == 2
    assert "Waiting" not in said and "worker" not in said
    cells = [next((place.root / folder).iterdir()) for folder in ("run/attacks", "_control")]
    together = [folder_digest(cell / "artifact") for cell in cells]
    statuses, _ = _finished(processes.start("--rerun"))
    assert statuses == ["done", "done"]
    assert [folder_digest(cell / "artifact") for cell in cells] == together
    # What is finished needs no helper, and was there before.
    assert _finished(processes.start(*TWO))[0] == ["cached", "cached"]


@posix
def test_the_cell_of_a_worker_that_dies_is_finished_by_the_other(processes: Processes) -> None:
    command = processes.start(*TWO)
    helper = _helper(processes, command)
    os.kill(helper, signal.SIGKILL)
    processes.go()
    statuses, said = _finished(command)
    assert statuses == ["done", "done"]
    assert "worker 2 (cpu) ended early (signal 9)" in " ".join(said.split())


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_workers_with_a_checkpoint(
    processes: Processes, place: Place, number: int
) -> None:
    # Steps enough that the helper is still at them when it is told.
    longer = (*TWO, "--set", "steps=40")
    command = processes.start(*longer)
    helper = _helper(processes, command)
    command.signal(number)
    time.sleep(0.2)
    processes.go()
    assert command.wait() == 128 + number
    assert not _alive(helper)
    partials = [*place.root.glob("run/attacks/*.partial"), *place.root.glob("_control/*.partial")]
    assert len(partials) == 2
    assert all(any((partial / "checkpoints").iterdir()) for partial in partials)
    assert _finished(processes.start(*longer))[0] == ["done", "done"]


@posix
def test_a_helper_stops_when_the_command_is_killed(processes: Processes) -> None:
    command = processes.start(*TWO)
    helper = _helper(processes, command)
    command.kill()
    processes.go()
    until = time.monotonic() + 30
    while _alive(helper) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _alive(helper)


@pytest.mark.parametrize(
    ("names", "workers", "expected"),
    [
        ("cpu", None, ["cpu"]),
        ("cpu", 3, ["cpu", "cpu", "cpu"]),
        ("cpu, cpu", None, ["cpu", "cpu"]),
        ("cpu,cpu", 3, ["cpu", "cpu", "cpu"]),
    ],
)
def test_every_device_gets_a_worker(names: str, workers: int | None, expected: list[str]) -> None:
    assert [str(device) for device in resolve_devices(names, workers)] == expected


def test_fewer_workers_than_devices_is_an_error() -> None:
    with pytest.raises(UsageError, match="fewer than the 2 devices"):
        resolve_devices("cpu,cpu", 1)
