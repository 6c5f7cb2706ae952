"""What a progress line shows, where there is little room, and the estimate of a resumed loop."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from apdm_cli.cli.progress import Display, LineProgress, LiveProgress, fitted_line

TERMS = "dpo 0.0314  preservation 0.002643  r+ 0.0123  r- 0.4567  drift 0.0009"


def _line(width: int, description: str = "Protecting", unit: str = "steps", **more: object) -> str:
    values = str(more.get("values", TERMS))
    return fitted_line(width, description, 120, 600, unit, 62.0, 3700.0, values).plain


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


@pytest.mark.parametrize("width", [60, 80, 100, 200])
@pytest.mark.parametrize(
    "description", ["Protecting", "adaptive-objective (other identifier, flip), protected, seed 12"]
)
def test_count_time_and_estimate_always_fit(width: int, description: str) -> None:
    line = _line(width, description)
    assert len(line) <= width
    assert "120/600 steps  0:01:02  eta 1:01:40" in line
    assert line.startswith(description[:12])


def test_terms_give_way_one_by_one_and_before_everything_else() -> None:
    assert "dpo" not in _line(60) and "━" in _line(60)
    assert _line(80).count("━") >= 6 and "dpo 0.0314" in _line(80)
    assert "preservation" not in _line(80)
    wide = _line(200)
    assert wide.endswith(TERMS) and wide.count("━") == 24
    shown = [len(_line(width).partition("eta")[2].split("  ")) for width in range(60, 200, 5)]
    assert shown == sorted(shown)


def test_where_there_is_hardly_any_room_the_count_stands() -> None:
    line = _line(40)
    assert "120/600" in line and "eta 1:01:40" in line and len(line) <= 40


def test_an_unknown_total_has_no_bar_and_no_estimate() -> None:
    line = fitted_line(80, "Waiting", 3, None, "", 2.0, None, "").plain
    assert line == "Waiting  3  0:00:02  eta -:--:--"


def test_a_display_shows_one_stage_after_the_other() -> None:
    out = io.StringIO()
    with Display(Console(file=out, width=200), live=False) as display:
        display.stage("Drawing class pictures", 4, unit="pictures")
        display.advance(4)
        display.said("Something [odd] was found.")
        display.stage("Protecting", 10, done=6)
        display.advance(4, dpo=0.5)
    lines = out.getvalue().splitlines()
    assert lines[0] == "Drawing class pictures: started (4 pictures)"
    assert lines[1].startswith("Drawing class pictures: done, 4/4 in") or "Note" in lines[1]
    assert "Note: Something [odd] was found." in lines
    assert lines[-1].startswith("Protecting: done, 10/10 in") and lines[-1].endswith("dpo 0.5")


def test_a_display_that_is_left_by_an_error_does_not_say_done() -> None:
    out = io.StringIO()
    with pytest.raises(RuntimeError), Display(Console(file=out), live=False) as display:
        display.stage("Protecting", 10)
        display.advance()
        raise RuntimeError
    assert "Protecting: stopped at 1/10" in out.getvalue()
