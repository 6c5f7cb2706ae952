"""Progress of `apdm attack`: a line per cell; on a terminal a live line below, and a total."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from rich import progress as rich_progress
from rich.markup import escape

from apdm_cli.cli.console import stderr
from apdm_cli.cli.progress import (
    ETA_SECONDS,
    FittedColumn,
    WorkerLines,
    counted,
    format_duration,
    format_fields,
)
from apdm_cli.errors import stopped

if TYPE_CHECKING:
    from apdm_cli.harness.execute import Outcome
    from apdm_cli.harness.plan import PlannedCell
    from apdm_cli.runs.workers import Watcher

WORDS = {"done": "[green]done[/]  ", "cached": "[dim]before[/]", "failed": "[red]failed[/]"}


def open_display(*, live: bool) -> AttackDisplay:
    """The display with live lines, or the one with plain lines only; both on stderr."""
    return LiveDisplay() if live else AttackDisplay()


class AttackDisplay:
    """One line for every cell as it ends: an `Observer`. Use as a context manager."""

    def __init__(self) -> None:
        self._number = self._total = 0

    def planned(self, cells: Sequence[PlannedCell]) -> None:
        """Say how much there is to do."""
        self._total = len(cells)
        cached = sum(cell.finished for cell in cells)
        before = f", {cached} of them finished before" if cached else ""
        self._say(f"{counted(len(cells), 'cell')}{before}")

    def begin(self, planned: PlannedCell) -> None:
        """Without a terminal only the end of a cell is shown."""

    def said(self, sentence: str) -> None:
        """Print it."""
        self._say(escape(sentence))

    def stage(self, description: str, total: int, done: int = 0, unit: str = "steps") -> None:
        """Without a terminal only the end of a cell is shown."""

    def advance(self, count: int = 1, **terms: float) -> None:
        """Without a terminal only the end of a cell is shown."""

    def end(self, outcome: Outcome) -> None:
        """Print the cell's line."""
        self._number += 1
        title = escape(outcome.planned.title)
        self._say(f"{WORDS[outcome.status]} {title}{self._tail(outcome)}")
        if outcome.status == "failed":
            self._say(f"  {escape(stopped(outcome.error))}")
            if outcome.hint:
                self._say(f"  [dim]{escape(outcome.hint)}[/]")

    def watch(self, name: str) -> Watcher:
        """Who is told of another worker of the same command."""
        return WorkerLines(self, name)

    def _tail(self, outcome: Outcome) -> str:
        if outcome.status != "done":
            return ""
        parts = [format_duration(outcome.manifest["duration_seconds"])]
        loss = outcome.manifest["summary"].get("final_loss")
        if isinstance(loss, float) and math.isfinite(loss):  # of an attack that trains
            parts.append(f"loss {loss:.4f}")
        return "  [dim]" + "  ".join(parts) + "[/]"

    def _say(self, text: str) -> None:
        stderr.print(text, soft_wrap=True, highlight=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        return None


class CellLine:
    """The live line of the cell that a worker has, while it has one."""

    def __init__(self, bars: rich_progress.Progress) -> None:
        self._bars = bars
        self._task: Any = None
        self._title = ""

    def takes(self, title: str) -> None:
        """Show a line for the cell."""
        self._title = title
        self._task = self._bars.add_task(title, total=None, values="preparing", unit="")

    def stage(self, description: str, total: int, done: int = 0, unit: str = "steps") -> None:
        """Start the line again for the stage."""
        if self._task is None:
            return
        text = self._title if description == "attack" else f"{self._title}: {description}"
        self._bars.reset(
            self._task, total=total, completed=done, description=text, values="", unit=unit
        )

    def advance(self, count: int = 1, **terms: float) -> None:
        """Move the line."""
        if self._task is not None:
            self._bars.update(self._task, advance=count)
            if terms:
                self._bars.update(self._task, values=format_fields(terms))

    def leaves(self) -> None:
        """Remove the line."""
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None


class LiveWorker(CellLine, WorkerLines):
    """The live line of another worker, and its sentences. A `Watcher`."""

    def __init__(self, bars: rich_progress.Progress, display: AttackDisplay, name: str) -> None:
        CellLine.__init__(self, bars)
        WorkerLines.__init__(self, display, name)


class LiveDisplay(AttackDisplay):
    """The lines, with a live line for all cells and one for each that runs."""

    def __init__(self) -> None:
        super().__init__()
        self._bars = rich_progress.Progress(
            FittedColumn(stderr), console=stderr, speed_estimate_period=ETA_SECONDS
        )
        self._all = self._bars.add_task("All cells", total=None, values="", unit="cells")
        self._own = CellLine(self._bars)

    def planned(self, cells: Sequence[PlannedCell]) -> None:
        """Count what is finished already at once."""
        super().planned(cells)
        self._bars.update(self._all, total=len(cells))

    def begin(self, planned: PlannedCell) -> None:
        """Show a line for the cell."""
        self._own.takes(planned.title)

    def stage(self, description: str, total: int, done: int = 0, unit: str = "steps") -> None:
        """Start the cell's line again for the stage."""
        self._own.stage(description, total, done, unit)

    def advance(self, count: int = 1, **terms: float) -> None:
        """Move the cell's line."""
        self._own.advance(count, **terms)

    def watch(self, name: str) -> Watcher:
        """A line of its own for another worker."""
        return LiveWorker(self._bars, self, name)

    def end(self, outcome: Outcome) -> None:
        """Replace the cell's line by the one that stays."""
        self._own.leaves()
        super().end(outcome)
        self._bars.update(self._all, completed=self._number)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()
