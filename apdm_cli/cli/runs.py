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
ROOM_FOR_SUBJECT = 76  # columns of a terminal


def runs(out: Root = Path("runs"), json: Json = False) -> None:
    """List the runs with their state, size, age and verdict, the newest first.

    A run is what one `apdm protect` made. Only files are read, so this answers at once.
    """
    from apdm_cli.runs.disk import tree_size
    from apdm_cli.runs.listing import CACHE, COMPARISONS, CONTROL, list_runs

    found = list_runs(out)
    shared = {
        name.removeprefix("_"): tree_size(out / name) for name in (CONTROL, CACHE, COMPARISONS)
    }
    if json:
        print_json({"root": out, "runs": [run.as_json() for run in found], "shared_bytes": shared})
        return
    if not found:
        stdout.print(f"There is no run in {out}.", highlight=False, markup=False, soft_wrap=True)
        stdout.print("Make one with: apdm protect PHOTOS --class NOUN", highlight=False)
        return
    _show(found)
    _show_shared(shared)


def _show(found: Sequence[RunSummary]) -> None:
    from rich.markup import escape
    from rich.padding import Padding
    from rich.table import Table

    from apdm_cli.runs.disk import format_bytes

    wide = stdout.width >= ROOM_FOR_SUBJECT
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("run", overflow="ellipsis", no_wrap=True, min_width=8)
    if wide:
        table.add_column("subject", overflow="ellipsis", no_wrap=True)
    for heading in ("state", "attacks", "size", "age"):
        right = heading in ("size", "age")
        table.add_column(heading, no_wrap=True, justify="right" if right else "left")
    for run in found:
        style = STYLES.get(run.state, "yellow")
        row = [f"[bold]{escape(run.name)}[/]"]
        row += [escape(run.subject)] if wide else []
        row += [f"[{style}]{run.state}[/]", _attacks(run), format_bytes(run.bytes)]
        table.add_row(*row, format_age(run.age_seconds))
    stdout.print(table, highlight=False)
    for run in found:
        said = run.problem if run.state in ("failed", "unreadable") else run.verdict
        if said:
            stdout.print()
            stdout.print(f"[bold]{escape(run.name)}[/]", highlight=False)
            stdout.print(Padding(escape(said), (0, 0, 0, 2)), highlight=False)


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


def format_age(seconds: float | None) -> str:
    """`7300` -> `2 h`: one unit is enough to find a run again."""
    if seconds is None:
        return ""
    if seconds < 60:
        return "now"
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {'day' if unit == 'days' and count == 1 else unit}"
    return "now"
