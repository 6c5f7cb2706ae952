"""`apdm runs`: which runs there are, how far each got, and how much room it takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from apdm_cli.cli.console import print_json, stdout
from apdm_cli.cli.options import Json, Root

if TYPE_CHECKING:
    from apdm_cli.runs.listing import RunSummary

STYLES = {"done": "green", "running": "cyan", "failed": "red", "unreadable": "red"}
# Columns of a terminal.
ROOM_FOR_SUBJECT, LONGEST_SUBJECT, NARROWEST_NAME, GAP = 76, 20, 8, 2


def runs(out: Root = Path("runs"), json: Json = False) -> None:
    """List the runs with their state, size, age and verdict, the newest first.

    A run is what one apdm protect made. Only files are read, so the answer comes at once.
    """
    from apdm_cli.runs.disk import tree_size
    from apdm_cli.runs.listing import CACHE, COMPARISONS, CONTROL, list_runs
    from apdm_cli.runs.run import no_run_in

    found = list_runs(out)
    shared = {
        name.removeprefix("_"): tree_size(out / name) for name in (CONTROL, CACHE, COMPARISONS)
    }
    if json:
        print_json({"root": out, "runs": [run.as_json() for run in found], "shared_bytes": shared})
        return
    if not found:
        nothing = no_run_in(out)
        for line in (f"{nothing.what}.", nothing.hint):
            stdout.print(line, highlight=False, markup=False, soft_wrap=True)
        return
    _show(found)
    _show_shared(shared)


def _show(found: Sequence[RunSummary]) -> None:
    from rich.markup import escape
    from rich.padding import Padding
    from rich.table import Table

    from apdm_cli.runs.disk import format_bytes

    wide = stdout.width >= ROOM_FOR_SUBJECT
    headings = [*(["subject"] if wide else []), "state", "attacks", "size", "age"]
    rows = []
    for run in found:
        cells = [shorten(run.subject, LONGEST_SUBJECT)] if wide else []
        cells += [run.state, _attacks(run), format_bytes(run.bytes), format_age(run.age_seconds)]
        rows.append(cells)
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    table = Table(box=None, padding=(0, GAP, 0, 0))
    # The name alone gives way on a narrow terminal, and goes on below: it is there to be typed.
    room = max(NARROWEST_NAME, stdout.width - sum(widths) - GAP * (len(widths) + 1))
    table.add_column("run", overflow="fold", max_width=room)
    for heading, width in zip(headings, widths, strict=True):
        right = heading in ("size", "age")
        table.add_column(heading, min_width=width, justify="right" if right else "left")
    for run, cells in zip(found, rows, strict=True):
        style = STYLES.get(run.state, "yellow")
        at = headings.index("state")
        shown = [f"[{style}]{cell}[/]" if i == at else escape(cell) for i, cell in enumerate(cells)]
        table.add_row(f"[bold]{escape(run.name)}[/]", *shown)
    stdout.print(table, highlight=False)
    for run in found:
        said = run.problem if run.state in ("failed", "unreadable") else run.answer or run.verdict
        report = f"Report: {run.report}" if run.report else None
        lines = [escape(line) for line in (said, report, run.hint) if line]
        if lines:
            stdout.print()
            stdout.print(f"[bold]{escape(run.name)}[/]", highlight=False)
            stdout.print(Padding("\n".join(lines), (0, 0, 0, 2)), highlight=False)


def _show_shared(shared: dict[str, int]) -> None:
    from apdm_cli.runs.disk import format_bytes

    words = {
        "control": "attacks on the originals",
        "cache": "class pictures and latents",
        "comparisons": "comparisons of several runs",
    }
    parts = [f"{words[name]} {format_bytes(size)}" for name, size in shared.items() if size]
    if parts:
        stdout.print(f"\n[dim]Shared by all runs: {', '.join(parts)}.[/]", highlight=False)


def _attacks(run: RunSummary) -> str:
    """`4 done, 1 failed`; nothing for a run that was not attacked."""
    counts = (
        (run.attacks_done, "done"),
        (run.attacks_failed, "failed"),
        (run.attacks_unfinished, "open"),
    )
    return ", ".join(f"{count} {word}" for count, word in counts if count) or "none"


def shorten(text: str, room: int) -> str:
    """`text`, or its beginning and an ellipsis where it is longer than `room` characters."""
    return text if len(text) <= room else text[: room - 1] + "…"


def format_age(seconds: float | None) -> str:
    """`7300` -> `2 h`: one unit is enough to find a run again."""
    if seconds is None:
        return ""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {'day' if unit == 'days' and count == 1 else unit}"
    return "now"
