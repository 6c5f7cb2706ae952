"""JSON on stdout, talk on stderr, and progress where there is no terminal."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import BaseModel
from rich.console import Console

from apdm_cli.cli import console
from apdm_cli.cli.progress import LineProgress, LiveProgress, format_duration, open_progress


class Clock:
    """Time that only the test moves, in seconds."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def lines_of(total: int | None, seconds_per_step: float, steps: int) -> list[str]:
    clock = Clock()
    out = io.StringIO()
    bar = LineProgress(Console(file=out, width=40), total, "Protecting [x]", clock=clock)
    with bar:
        for index in range(steps):
            clock.now += seconds_per_step
            bar.advance(loss=0.5 / (index + 1))
    return out.getvalue().splitlines()


def test_json_is_one_object_and_valid_where_python_would_write_nan(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Inner(BaseModel):
        beta: float = float("inf")

    @dataclass
    class Point:
        x: float

    console.print_json(
        {"path": Path("a/b"), "nan": float("nan"), "inner": Inner(), "points": (Point(1.5),)}
    )
    captured = capsys.readouterr()
    assert captured.err == ""
    assert json.loads(captured.out) == {
        "path": "a/b",
        "nan": None,
        "inner": {"beta": None},
        "points": [{"x": 1.5}],
    }


def test_json_keeps_words_in_any_script(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json({"θ": "größer"})
    assert "größer" in capsys.readouterr().out


def test_warning_goes_to_stderr_unparsed(capsys: pytest.CaptureFixture[str]) -> None:
    console.warn("plugin [bold]x[/bold] was skipped.", "Reinstall it.")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "Warning: plugin [bold]x[/bold] was skipped.\nReinstall it.\n"


def test_progress_without_a_terminal_is_lines_on_stderr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with console.progress(2, "Drawing") as bar:
        bar.advance(2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[0] == "Drawing: started (2 steps)"
    assert captured.err.splitlines()[-1].startswith("Drawing: done, 2/2 in ")


def test_a_line_about_every_thirty_seconds() -> None:
    lines = lines_of(total=40, seconds_per_step=4.0, steps=40)
    # 160 seconds: one line at the first step after every 30 s, which here is every 32 s.
    assert len(lines) == 1 + 5 + 1
    assert lines[1] == "Protecting [x]: 8/40 in 32 s, about 2 min 8 s left, loss 0.0625"
    assert lines[-1] == "Protecting [x]: done, 40/40 in 2 min 40 s, loss 0.0125"


def test_quick_loops_print_only_start_and_end() -> None:
    assert len(lines_of(total=1000, seconds_per_step=0.01, steps=1000)) == 2


def test_unknown_total_has_no_eta() -> None:
    lines = lines_of(total=None, seconds_per_step=31.0, steps=2)
    assert lines[0] == "Protecting [x]: started"
    assert lines[1] == "Protecting [x]: 1 in 31 s, loss 0.5"


def test_an_interrupted_loop_does_not_say_done() -> None:
    out = io.StringIO()
    with pytest.raises(RuntimeError), LineProgress(Console(file=out), 3, "Drawing") as bar:
        bar.advance()
        raise RuntimeError
    assert "done" not in out.getvalue()
    assert "stopped at 1/3" in out.getvalue()


def test_the_live_bar_shows_counts_and_fields() -> None:
    out = io.StringIO()
    terminal = Console(file=out, force_terminal=True, width=120)
    bar = open_progress(terminal, 4, "Attacking [a]", live=True)
    assert isinstance(bar, LiveProgress)
    with bar:
        bar.advance(3, loss=0.25, arm="original")
    assert "Attacking [a]" in out.getvalue()
    assert "3/4" in out.getvalue()
    assert "loss 0.25  arm original" in out.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.23, "1.2 s"), (42.0, "42 s"), (75.2, "1 min 15 s"), (7260.0, "2 h 1 min")],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_what_is_typed_with_colons_is_printed_as_it_is_typed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for to in (console.stdout, console.stderr):
        to.print("--subject rex=rex:dog:xyz", markup=False)
        to.print("[bold]rex:dog:xyz[/]")
    printed = capsys.readouterr()
    for text in (printed.out, printed.err):
        assert text.splitlines() == ["--subject rex=rex:dog:xyz", "rex:dog:xyz"]
