"""How far a command is: a live line on a terminal, plain lines elsewhere.

`Display` speaks the protocol of `apdm_cli.progress` and shows one stage after another, each as a
`Bar`.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol, Self

from rich import progress as rich_progress
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from apdm_cli.errors import stopped
from apdm_cli.progress import Silent

LINE_INTERVAL = 30.0  # seconds between two plain lines
ETA_WINDOW = 50  # calls of advance() over which the speed is averaged
ETA_SECONDS = 3600.0  # the same for the live bar, which keeps at most 1000 calls
GAP = "  "
LONGEST_BAR, SHORTEST_BAR, SHORTEST_DESCRIPTION = 24, 6, 12


class Said(Protocol):
    """Somebody who is told sentences."""

    def said(self, sentence: str) -> None:
        """Show one."""


class Bar(ABC):
    """How far a loop is. Use as a context manager; call `advance` once per step."""

    def __init__(self, total: int | None, description: str, unit: str = "steps") -> None:
        self.total = total
        self.description = description
        self.unit = unit
        self.done = 0
        self.fields: dict[str, Any] = {}

    def advance(self, n: int = 1, **fields: Any) -> None:
        """Count `n` more units; `fields` (loss=0.12, ...) are shown until the next values."""
        self.done += n
        self.fields.update(fields)
        self._update()

    def skip(self, n: int) -> None:
        """Count `n` units that were done before: they say nothing about the speed."""
        self.done += n
        self._restart()

    def describe(self, description: str) -> None:
        """Replace the text in front, where one bar covers several stages."""
        self.description = description
        self._update()

    @abstractmethod
    def _update(self) -> None: ...

    @abstractmethod
    def _restart(self) -> None:
        """Measure the speed from here on."""

    @abstractmethod
    def __enter__(self) -> Self: ...

    @abstractmethod
    def __exit__(self, *exception: object) -> None: ...


class Display:
    """A `Progress` on a console. Use as a context manager.

    Args:
        live: draw a line that is redrawn; otherwise print plain lines.
        say: prints a sentence; without it sentences begin with "Note:".
    """

    def __init__(
        self, console: Console, *, live: bool, say: Callable[[str], None] | None = None
    ) -> None:
        self._console, self._live, self._say = console, live, say
        self._bar: Bar | None = None

    def said(self, sentence: str) -> None:
        """Print it; a live line stays below."""
        if self._say is not None:
            self._say(sentence)
            return
        self._console.print(
            f"Note: {stopped(sentence)}", soft_wrap=True, highlight=False, markup=False
        )

    def stage(self, description: str, total: int, done: int = 0, unit: str = "steps") -> None:
        """End the stage before and show this one."""
        self._end(None, None, None)
        self._bar = open_progress(self._console, total, description, self._live, unit)
        self._bar.__enter__()
        if done:
            self._bar.skip(done)

    def advance(self, count: int = 1, **terms: float) -> None:
        """Move the stage on."""
        if self._bar is not None:
            self._bar.advance(count, **terms)

    def _end(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.__exit__(*exception)
            self._bar = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._end(*exception)


class WorkerLines(Silent):
    """What is shown of another worker without a line of its own: its sentences. A `Watcher`."""

    def __init__(self, display: Said, name: str) -> None:
        self._display, self._name = display, name

    def said(self, sentence: str) -> None:
        """Print it with the worker's name."""
        self._display.said(f"{self._name}: {sentence}")

    def takes(self, title: str) -> None:
        """Whoever looks at all of the work shows its parts."""

    def leaves(self) -> None:
        """As above."""


def open_progress(
    console: Console, total: int | None, description: str, live: bool, unit: str = "steps"
) -> Bar:
    """The live line (`live`) or the plain lines, both written to `console`."""
    kind = LiveProgress if live else LineProgress
    return kind(console, total, description, unit)


def fitted_line(
    width: int,
    description: str,
    done: int,
    total: int | None,
    unit: str,
    elapsed: float | None,
    left: float | None,
    values: str,
) -> Text:
    """One line of at most `width` characters.

    Count, elapsed time and estimate always stand. What gives way, in this order: values at the
    end, the bar, the unit, the end of the description.

    Args:
        elapsed, left: seconds, or None where they are not known yet.
    """
    count = f"{done}" if total is None else f"{done}/{total}"
    times = f"{_clock(elapsed)}{GAP}eta {_clock(left)}"
    room = width - len(count) - len(times) - len(GAP)
    named = f" {unit}" if unit and len(unit) + 1 + SHORTEST_DESCRIPTION + len(GAP) <= room else ""
    room -= len(named)
    bar = 0
    if total is not None:
        free = room - cell_len(description) - 2 * len(GAP)
        bar = 0 if free < SHORTEST_BAR else min(LONGEST_BAR, max(SHORTEST_BAR, free // 2))
    room -= bar + len(GAP) if bar else 0
    text = Text(description, style="bold")
    text.truncate(max(0, room - len(GAP)), overflow="ellipsis")
    line = Text(no_wrap=True).append_text(text).append(GAP if text.plain else "")
    if bar and total is not None:
        full = bar if total == 0 else min(bar, round(bar * done / total))
        line.append("━" * full, "green").append("━" * (bar - full), "dim").append(GAP)
    line.append(f"{count}{named}{GAP}{times}")
    shown = ""
    for value in values.split(GAP) if values else []:
        if line.cell_len + len(shown) + len(GAP) + len(value) > width:
            break
        shown += f"{GAP}{value}"
    return line.append(shown, "dim")


class FittedColumn(rich_progress.ProgressColumn):
    """A whole task as one `fitted_line`. The task has the fields `values` and `unit`."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def render(self, task: rich_progress.Task) -> Text:
        """The line of `task`, as wide as the console is now."""
        elapsed = task.finished_time if task.finished else task.elapsed
        return fitted_line(
            self._console.width,
            task.description,
            int(task.completed),
            None if task.total is None else int(task.total),
            task.fields["unit"],
            elapsed,
            task.time_remaining,
            task.fields["values"],
        )


class LiveProgress(Bar):
    """A line that redraws itself; prints through the same console appear above it."""

    def __init__(
        self, console: Console, total: int | None, description: str, unit: str = "steps"
    ) -> None:
        super().__init__(total, description, unit)
        self._bar = rich_progress.Progress(
            FittedColumn(console), console=console, speed_estimate_period=ETA_SECONDS
        )
        self._task = self._bar.add_task(description, total=total, values="", unit=unit)

    def _update(self) -> None:
        self._bar.update(
            self._task,
            completed=self.done,
            description=self.description,
            values=format_fields(self.fields),
        )

    def _restart(self) -> None:
        self._bar.reset(self._task, total=self.total, completed=self.done)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()


class LineProgress(Bar):
    """A line at the start, one about every `interval` seconds, and one at the end."""

    def __init__(
        self,
        console: Console,
        total: int | None,
        description: str,
        unit: str = "steps",
        interval: float = LINE_INTERVAL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(total, description, unit)
        self._console = console
        self._interval = interval
        self._clock = clock
        self._started = self._printed = clock()
        self._history: deque[tuple[float, int]] = deque([(self._started, 0)], maxlen=ETA_WINDOW)

    def _update(self) -> None:
        now = self._clock()
        if self.done != self._history[-1][1]:
            self._history.append((now, self.done))
        if now - self._printed >= self._interval:
            self._printed = now
            self._print(self._position(now, with_eta=True))

    def _restart(self) -> None:
        self._history = deque([(self._clock(), self.done)], maxlen=ETA_WINDOW)

    def __enter__(self) -> Self:
        steps = "" if self.total is None else f" ({self.total} {self.unit})"
        self._print(f"started{steps}")
        return self

    def __exit__(self, *exception: object) -> None:
        word = "done, " if not exception or exception[0] is None else "stopped at "
        self._print(word + self._position(self._clock(), with_eta=False))

    def _position(self, now: float, *, with_eta: bool) -> str:
        total = "" if self.total is None else f"/{self.total}"
        parts = [f"{self.done}{total} in {format_duration(now - self._started)}"]
        if with_eta and self.total is not None:
            then, before = self._history[0]
            moved = self.done - before
            if moved > 0:
                left = (now - then) / moved * (self.total - self.done)
                parts.append(f"about {format_duration(left)} left")
        if self.fields:
            parts.append(format_fields(self.fields))
        return ", ".join(parts)

    def _print(self, text: str) -> None:
        self._console.print(
            f"{self.description}: {text}", soft_wrap=True, markup=False, highlight=False
        )


def format_fields(fields: Mapping[str, Any]) -> str:
    """`{"loss": 0.12345, "arm": "original"}` -> `loss 0.1235  arm original`."""
    return "  ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in fields.items()
    )


def format_duration(seconds: float) -> str:
    """`75.2` -> `1 min 15 s`; below ten seconds with one decimal."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def counted(count: int, noun: str) -> str:
    """`1 cell`, `2 cells`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _clock(seconds: float | None) -> str:
    """`0:01:15`, or dashes where it is not known yet."""
    if seconds is None:
        return "-:--:--"
    minutes, rest = divmod(max(0, int(seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
