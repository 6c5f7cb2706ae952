"""When checkpoints are written."""

from __future__ import annotations

import pytest

from apdm_cli.runs import due as room
from apdm_cli.runs.due import Due


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(room, "time", made)
    return made


def test_every_n_steps_whatever_the_clock_says(clock: Clock) -> None:
    due = Due(3)
    clock.now = 1e6
    assert [step for step in range(1, 10) if due(step)] == [3, 6, 9]


def test_once_a_minute_without_a_number(clock: Clock) -> None:
    due = Due()
    found = []
    for clock.now in range(0, 200, 10):
        found.append(due(1))
    assert [10 * place for place, value in enumerate(found) if value] == [60, 120, 180]


def test_slow_writing_makes_it_rarer(clock: Clock) -> None:
    due = Due()
    clock.now = 60
    assert due(1)
    clock.now = 90
    due.took(30)  # 5 % of 600 s
    clock.now = 680
    assert not due(2)
    clock.now = 690
    assert due(3)
    due.took(0.1)
    clock.now = 750
    assert due(4)
