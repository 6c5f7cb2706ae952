"""A duration holds everything that took time, drawing included, in every process.

Time stands still but for drawing, so that a duration without it would be 0.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import apdm_cli.protection.l2p as l2p
from apdm_cli.diffusion import picture_cache
from apdm_cli.runs import clock
from apdm_cli.runs.clock import Clock
from tests.protection.commands import Desk, forget_pipelines, run

BATCH = 100.0  # seconds that one batch of pictures takes


class Hands:
    """A clock that somebody has to turn."""

    def __init__(self) -> None:
        self.now, self.batches = 5.0, 0

    def monotonic(self) -> float:
        return self.now

    @property
    def drawn(self) -> float:
        return self.batches * BATCH


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    made, sample = Hands(), picture_cache.sample

    def slow(*arguments: Any, **options: Any) -> Iterator[Any]:
        for batch in sample(*arguments, **options):
            made.now += BATCH
            made.batches += 1
            yield batch

    monkeypatch.setattr(clock, "time", made)
    monkeypatch.setattr(picture_cache, "sample", slow)
    return made


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    yield Desk(tmp_path_factory.mktemp("clock"))
    forget_pipelines()


def duration(folder: Path) -> float:
    return float(json.loads((folder / "manifest.json").read_text())["duration_seconds"])


def test_what_was_spent_before_is_added_once(hands: Hands) -> None:
    first = Clock()
    hands.now += 3
    assert first.seconds == 3
    second = Clock()
    hands.now += 1
    for spent in (first.seconds, 2.0):  # two trainings of one cell, each with its checkpoint
        second.goes_on(spent)
    assert second.seconds == 4 + 1


@pytest.mark.usefixtures("heeded_signals")
def test_class_pictures_are_part_of_what_protecting_took(
    desk: Desk, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stop_in_the_second_step(monkeypatch, lambda: desk.protect("run"))
    assert hands.batches > 0
    drawn = hands.drawn
    assert desk.protect("run", "--resume") == 0
    assert hands.drawn == drawn, "they are kept"
    assert duration(desk.runs / "run") == drawn


def _stop_in_the_second_step(monkeypatch: pytest.MonkeyPatch, protect: Callable[[], int]) -> None:
    original = l2p.LearningToProtect._summary

    def summary(self: Any, index: int, *rest: Any) -> Any:
        if index == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, index, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(l2p.LearningToProtect, "_summary", summary)
        assert protect() == 143


@pytest.mark.usefixtures("heeded_signals")
def test_class_pictures_and_those_on_the_way_are_part_of_what_an_attack_took(
    desk: Desk, hands: Hands, tmp_path: Path
) -> None:
    """The second try of an interrupted cell counts what the first one drew."""
    if not (desk.runs / "run").exists():
        assert desk.protect("run") == 0
    file = tmp_path / "stopping.py"
    file.write_text(STOPPING.format(mark=str(tmp_path / "mark"), signal=int(signal.SIGTERM)))
    command = [
        *("attack", "run", "--plugin-file", str(file), "--plugin", "stopping", "--no-control"),
        *("--out", str(desk.runs), "--device", "cpu", "--budgets", "0.25,1", "--images", "2"),
        *("--sampler", "ddim", "--sampler-steps", "1", "--set", "steps=4"),
        *("--set", "prior_pictures=2", "--set", "sampler_steps=2"),
    ]
    before = hands.batches
    assert run(command) == 143
    assert hands.batches == before + 2  # class pictures, and those after the first step
    assert run(command) == 0
    assert hands.batches == before + 2, "they are kept"
    (cell,) = (desk.runs / "run" / "attacks").glob("stopping-*")
    assert duration(cell) == 2 * BATCH


STOPPING = '''
import os
from pathlib import Path
from apdm_attacks.dreambooth import DreamBooth
from apdm_cli.extension.hooks import hookimpl

class Stopping(DreamBooth):
    """Sends itself a signal, once."""
    name = "stopping"
    def continues(self, config):
        return True
    def learning_rate(self, step, config):
        if step == 2 and not Path({mark!r}).exists():
            Path({mark!r}).touch()
            os.kill(os.getpid(), {signal})
        return config.learning_rate

@hookimpl
def apdm_attacks():
    return [Stopping()]
'''
