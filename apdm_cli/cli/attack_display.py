"""Progress of `apdm attack`: a line per cell; on a terminal a live line below, and a total."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from rich import progress as rich_progress
from rich.markup import escape

from apdm_cli.cli.console import stderr
from apdm_cli.cli.progress import (
    ETA_SECONDS,
    FittedColumn,
    counted,
    format_duration,
    format_fields,
)
from apdm_cli.errors import stopped

if TYPE_CHECKING:
    from apdm_cli.harness.execute import Outcome
    from apdm_cli.harness.plan import PlannedCell

WORDS = {"done": "[green]done[/]  ", "cached": "[dim]before[/]", "failed": "[red]failed[/]"}


def open_display(*, live: bool) -> AttackDisplay:
    """The display with live lines, or the one with plain lines only; both on stderr."""
    return LiveDisplay() if live else AttackDisplay()


class AttackDisplay:
    """One line for every cell as it ends: an `Observer`. Use as a context manager."""

    def __init__(self) -> None:
        self._number = self._total = 0
        self._started = time.monotonic()

    def planned(self, cells: Sequence[PlannedCell]) -> None:
        """Say how much there is to do."""
        self._total = len(cells)
        cached = sum(cell.finished for cell in cells)
        before = f", {cached} of them finished before" if cached else ""
        self._say(f"{counted(len(cells), 'cell')}{before}")

    def begin(self, planned: PlannedCell) -> None:
        """Remember when."""
        self._started = time.monotonic()

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

    def _tail(self, outcome: Outcome) -> str:
        if outcome.status != "done":
            return ""
        parts = [format_duration(time.monotonic() - self._started)]
        loss = outcome.manifest["summary"].get("final_loss")
        if isinstance(loss, float):
            parts.append(f"loss {loss:.4f}")
        return "  [dim]" + "  ".join(parts) + "[/]"

    def _say(self, text: str) -> None:
        stderr.print(text, soft_wrap=True, highlight=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        return None


class LiveDisplay(AttackDisplay):
    """The lines, with a live line for all cells and one for the cell that runs."""

    def __init__(self) -> None:
        super().__init__()
        self._bars = rich_progress.Progress(
            FittedColumn(stderr), console=stderr, speed_estimate_period=ETA_SECONDS
        )
        self._all = self._bars.add_task("All cells", total=None, values="", unit="cells")
        self._cell: Any = None
        self._title = ""

    def planned(self, cells: Sequence[PlannedCell]) -> None:
        """Count what is finished already at once."""
        super().planned(cells)
        self._bars.update(self._all, total=len(cells))

    def begin(self, planned: PlannedCell) -> None:
        """Show a line for the cell."""
        super().begin(planned)
        self._title = planned.title
        self._cell = self._bars.add_task(self._title, total=None, values="preparing", unit="")

    def stage(self, description: str, total: int, done: int = 0, unit: str = "steps") -> None:
        """Start the cell's line again for the stage."""
        if self._cell is None:
            return
        text = self._title if description == "attack" else f"{self._title}: {description}"
        self._bars.reset(
            self._cell, total=total, completed=done, description=text, values="", unit=unit
        )

    def advance(self, count: int = 1, **terms: float) -> None:
        """Move the cell's line."""
        if self._cell is not None:
            self._bars.update(self._cell, advance=count)
            if terms:
                self._bars.update(self._cell, values=format_fields(terms))

    def end(self, outcome: Outcome) -> None:
        """Replace the cell's line by the one that stays."""
        if self._cell is not None:
            self._bars.remove_task(self._cell)
            self._cell = None
        super().end(outcome)
        self._bars.update(self._all, completed=self._number)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()
