"""SIGKILL at any moment loses nothing: the resumed run ends bit for bit like an uninterrupted one.

Real processes are killed.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from apdm_cli.runs.checkpoints import latest
from tests.processes import Apdm
from tests.protection.commands import Desk, forget_pipelines, same

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")

LONG = ("--set", "steps_outer=12", "--set", "steps_inner=1", "--checkpoint-every", "1")
SHORT = ("--set", "steps_outer=2")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    yield Desk(tmp_path_factory.mktemp("desk"))
    forget_pipelines()


Start = Callable[..., Apdm]


@pytest.fixture
def start(desk: Desk, tmp_path: Path) -> Iterator[Start]:
    processes = []

    def begin(name: str, *more: str) -> Apdm:
        process = Apdm(desk.arguments(name, *LONG, *more), tmp_path / "said.txt")
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()


def kill_when(process: Apdm, ready: Callable[[], bool]) -> None:
    """SIGKILL `process` as soon as `ready`; fails when it ends before."""
    process.wait_until(ready)
    process.kill()
    assert process.code == -9


def finish(process: Apdm) -> None:
    assert process.wait() == 0, process.err


def half_written(desk: Desk, name: str) -> Callable[[], bool]:
    """Whether a checkpoint of `name` is being written, its tensors at least begun."""
    folder = desk.runs / name / "checkpoints"

    def found() -> bool:
        return any(folder.glob(".tmp-*/tensors.safetensors"))

    return found


def half_saved(desk: Desk, name: str) -> Callable[[], bool]:
    """Whether the protected pipeline of `name` is being written."""
    return lambda: any((desk.runs / name).glob(".tmp-*/unet"))


def checkpoint_of(desk: Desk, name: str, step: int) -> Callable[[], bool]:
    folder = desk.runs / name / "checkpoints"
    return lambda: any(int(path.name[5:]) >= step for path in folder.glob("step-*"))


PERSISTENT = (
    "attackers.kind=persistent",
    "attackers.count=2",
    "attackers.ages=[2, 9]",
    'attackers.pool=[{}, {attack="lora", settings={learning_rate=1e-2}}]',
    "margin.kind=relative",
    "others.count=1",
    "others.every=2",
    "others.subjects=2",
    "others.pictures=2",
    "average=0.9",
)


@pytest.mark.parametrize("kind", ["fp32", "bf16", "persistent"])
def test_killed_runs_end_like_uninterrupted_ones(start: Start, desk: Desk, kind: str) -> None:
    whole, name = f"whole-{kind}", f"killed-{kind}"
    options: tuple[str, ...] = ("--dtype", kind)
    if kind == "persistent":
        options = tuple(part for setting in PERSISTENT for part in ("--set", setting))
    finish(start(whole, *options))
    moments = random.Random(0)
    resume: tuple[str, ...] = ()
    for step in (1, 5):
        process = start(name, *options, *resume)
        kill_when(process, checkpoint_of(desk, name, step))
        assert latest(desk.runs / name / "checkpoints")[0] is not None
        resume = ("--resume",)
        # And once more shortly after the restart, wherever it is then: loading, drawing, training.
        process = start(name, *options, *resume)
        time.sleep(moments.uniform(0.0, 0.6))
        process.kill()
        if process.code == 0:
            break  # a quick machine was done before the signal
    else:
        finish(start(name, *options, "--resume"))
    assert same(desk.weights(whole), desk.weights(name))
    logs = [(desk.runs / run / "metrics.jsonl").read_bytes() for run in (whole, name)]
    assert logs[0] == logs[1]


def test_killed_in_the_middle_of_a_checkpoint(start: Start, desk: Desk) -> None:
    finish(start("whole", *SHORT))
    for attempt in range(20):
        run = f"torn-{attempt}"
        kill_when(start(run, *SHORT), half_written(desk, run))
        if any((desk.runs / run / "checkpoints").glob(".tmp-*")):
            break  # otherwise the rename was quicker than the signal
    else:
        pytest.fail("no kill hit a checkpoint that was being written")
    finish(start(run, *SHORT, "--resume"))
    assert same(desk.weights("whole"), desk.weights(run))
    assert not list((desk.runs / run).rglob(".tmp-*"))


def test_killed_while_the_pipeline_is_being_saved(start: Start, desk: Desk) -> None:
    finish(start("saved", *SHORT))
    for attempt in range(20):
        run = f"saving-{attempt}"
        kill_when(start(run, *SHORT), half_saved(desk, run))
        if not (desk.runs / run / "model").exists():
            break
    else:
        pytest.fail("no kill hit a pipeline that was being saved")
    finish(start(run, *SHORT, "--resume"))
    assert same(desk.weights("saved"), desk.weights(run))
    assert not list((desk.runs / run).glob(".tmp-*"))
