"""How long the work on a run or a cell takes, over all processes that had a part in it."""

from __future__ import annotations

import time


class Clock:
    """Counts from its making: loading, drawing, steps and saving alike.

    `seconds` goes into every checkpoint, and `goes_on` takes it out again, so that an interrupted
    run's duration has what was spent before. What came after the last checkpoint is not counted: it
    is done again.
    """

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._before = 0.0

    @property
    def seconds(self) -> float:
        """Time spent so far, in all processes."""
        return self._before + time.monotonic() - self._began

    def goes_on(self, seconds: float) -> None:
        """Go on from what a checkpoint says was `seconds` by then; of several the most counts."""
        self._before = max(self._before, seconds)
