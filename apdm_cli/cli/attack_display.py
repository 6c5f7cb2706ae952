"""Progress of `apdm attack`: a line per cell; on a terminal a bar inside a total bar."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from rich import progress as rich_progress
from rich.markup import escape

from apdm_cli.cli.console import stderr
from apdm_cli.cli.progress import format_duration

if TYPE_CHECKING:
    from apdm_cli.harness.execute import Outcome
    from apdm_cli.harness.plan import PlannedCell
    from apdm_cli.personalization.loop import Step

WORDS = {"done": "[green]done[/]  ", "cached": "[dim]before[/]", "failed": "[red]failed[/]"}


def open_display(*, live: bool) -> AttackDisplay:
    """The display with bars (`live`), or the one with lines only; both on stderr."""
    return LiveDisplay() if live else AttackDisplay()


class AttackDisplay:
    """One line for every cell as it ends. Use as a context manager."""

    def __init__(self) -> None:
        self._number = self._total = 0
        self._loss: float | None = None
        self._started = time.monotonic()

    def planned(self, cells: Sequence[PlannedCell]) -> None:
        """Say how much there is to do."""
        self._total = len(cells)
        cached = sum(cell.finished for cell in cells)
        before = f", {cached} of them finished before" if cached else ""
        self._say(f"{len(cells)} cells{before}")

    def begin(self, planned: PlannedCell) -> None:
        """Remember when."""
        self._loss = None
        self._started = time.monotonic()

    def phase(self, label: str, steps: int) -> None:
        """Nothing to say."""

    def step(self, label: str, step: Step) -> None:
        """Remember the loss."""
        self._loss = step.loss

    def end(self, outcome: Outcome) -> None:
        """Print the cell's line."""
        self._number += 1
        self._say(f"{WORDS[outcome.status]} {escape(title(outcome.planned))}{self._tail(outcome)}")
        if outcome.status == "failed":
            self._say(f"  {escape(outcome.error)}")
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
    """The lines, with a total bar and a bar for the cell that runs."""

    def __init__(self) -> None:
        super().__init__()
        self._bars = rich_progress.Progress(
            rich_progress.TextColumn("[bold]{task.description}"),
            rich_progress.BarColumn(bar_width=24),
            rich_progress.MofNCompleteColumn(),
            rich_progress.TimeElapsedColumn(),
            rich_progress.TextColumn("[dim]{task.fields[values]}"),
            console=stderr,
        )
        self._all = self._bars.add_task("All cells", total=None, values="")
        self._cell: Any = None
        self._title = ""

    def planned(self, cells: Sequence[PlannedCell]) -> None:
        """Count what is finished already at once."""
        super().planned(cells)
        self._bars.update(self._all, total=len(cells))

    def begin(self, planned: PlannedCell) -> None:
        """Show a bar for the cell."""
        super().begin(planned)
        self._title = escape(title(planned))
        self._cell = self._bars.add_task(self._title, total=None, values="preparing")

    def phase(self, label: str, steps: int) -> None:
        """Start the bar again for the phase."""
        text = self._title if label == "attack" else f"{self._title}: {escape(label)}"
        self._bars.reset(self._cell, total=steps, description=text, values="")

    def step(self, label: str, step: Step) -> None:
        """Move the bar."""
        super().step(label, step)
        self._bars.update(self._cell, completed=step.index + 1, values=f"loss {step.loss:.4f}")

    def end(self, outcome: Outcome) -> None:
        """Replace the bar by the line."""
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


def title(planned: PlannedCell) -> str:
    """`lora (rank=4), protected, seed 0`."""
    variant = f" ({planned.job.variant})" if planned.job.variant else ""
    return f"{planned.job.name}{variant}, {planned.arm}, seed {planned.job.seed}"
