"""The estimate of a resumed loop."""

from __future__ import annotations

import io

from rich.console import Console

from apdm_cli.cli.progress import LineProgress, LiveProgress


def test_steps_of_an_earlier_process_do_not_enter_the_estimate() -> None:
    now = 0.0
    out = io.StringIO()
    with LineProgress(Console(file=out), 200, "Protecting", clock=lambda: now) as bar:
        now = 50.0  # something else took its time first
        bar.skip(100)
        now += 40.0
        bar.advance()
    assert "101/200" in out.getvalue()
    assert "about 1 h 6 min left" in out.getvalue()  # 99 steps of 40 s


def test_live_bar_counts_them_without_taking_them_for_speed() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with LiveProgress(console, 200, "Protecting") as bar:
        bar.skip(100)
        task = bar._bar.tasks[0]
        assert (task.completed, task.speed) == (100, None)
        bar.advance()
        assert task.completed == 101
