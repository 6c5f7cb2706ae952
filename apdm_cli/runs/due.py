"""When a checkpoint is due."""

from __future__ import annotations

import time

SECONDS = 60.0


class Due:
    """Whether a checkpoint is due: every `every` steps, or once a minute where that is 0.

    Checkpoints change nothing in a result, so the clock may decide.
    """

    def __init__(self, every: int = 0) -> None:
        self.every = every
        self._last = time.monotonic()

    def __call__(self, done: int) -> bool:
        """Ask once per step, with the number of steps that are done."""
        if self.every:
            return done % self.every == 0
        if time.monotonic() - self._last < SECONDS:
            return False
        self._last = time.monotonic()
        return True
