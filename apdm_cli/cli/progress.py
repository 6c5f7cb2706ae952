"""One progress interface, drawn as a live bar on a terminal and as plain lines elsewhere."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any, Self

from rich import progress as rich_progress
from rich.console import Console
from rich.markup import escape

LINE_INTERVAL = 30.0  # seconds between two plain lines
ETA_WINDOW = 50  # calls of advance() over which the speed is averaged
ETA_SECONDS = 3600.0  # the same for the live bar, which keeps at most 1000 calls


class Progress(ABC):
    """How far a loop is. Use as a context manager; call `advance` once per step."""

    def __init__(self, total: int | None, description: str) -> None:
        self.total = total
        self.description = description
        self.done = 0
        self.fields: dict[str, Any] = {}

    def advance(self, n: int = 1, **fields: Any) -> None:
        """Count `n` more steps; `fields` (loss=0.12, ...) are shown until the next values."""
        self.done += n
        self.fields.update(fields)
        self._update()

    def skip(self, n: int) -> None:
        """Count `n` steps that were taken before: they say nothing about the speed."""
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


def open_progress(console: Console, total: int | None, description: str, live: bool) -> Progress:
    """The bar (`live`) or the plain lines, both written to `console`."""
    if live:
        return LiveProgress(console, total, description)
    return LineProgress(console, total, description)


class LiveProgress(Progress):
    """A rich bar that redraws itself; prints through the same console appear above it."""

    def __init__(self, console: Console, total: int | None, description: str) -> None:
        super().__init__(total, description)
        self._bar = rich_progress.Progress(
            rich_progress.TextColumn("[bold]{task.description}"),
            rich_progress.BarColumn(bar_width=24),
            rich_progress.MofNCompleteColumn(),
            rich_progress.TimeElapsedColumn(),
            rich_progress.TextColumn("eta"),
            rich_progress.TimeRemainingColumn(),
            rich_progress.TextColumn("[dim]{task.fields[values]}"),
            console=console,
            speed_estimate_period=ETA_SECONDS,
        )
        self._task = self._bar.add_task(escape(description), total=total, values="")

    def _update(self) -> None:
        self._bar.update(
            self._task,
            completed=self.done,
            description=escape(self.description),
            values=escape(format_fields(self.fields)),
        )

    def _restart(self) -> None:
        self._bar.reset(self._task, total=self.total, completed=self.done)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()


class LineProgress(Progress):
    """A line at the start, one about every `interval` seconds, and one at the end."""

    def __init__(
        self,
        console: Console,
        total: int | None,
        description: str,
        interval: float = LINE_INTERVAL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(total, description)
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
        steps = "" if self.total is None else f" ({self.total} steps)"
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


def format_fields(fields: dict[str, Any]) -> str:
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
