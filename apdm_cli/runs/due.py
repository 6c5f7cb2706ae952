"""When a checkpoint is due."""

from __future__ import annotations

import time

SECONDS = 60.0
SHARE = 0.05  # of the time, at most, goes into writing


class Due:
    """Whether a checkpoint is due: every `every` steps, or once a minute where that is 0.

    Where writing one takes long (full-size models), once a minute becomes less often.
    Checkpoints change nothing in a result, so the clock may decide.
    """

    def __init__(self, every: int = 0) -> None:
        self.every = every
        self._last = time.monotonic()
        self._interval = SECONDS

    def __call__(self, done: int) -> bool:
        """Ask once per step, with the number of steps that are done."""
        if self.every:
            return done % self.every == 0
        if time.monotonic() - self._last < self._interval:
            return False
        self._last = time.monotonic()
        return True

    def took(self, seconds: float) -> None:
        """Tell how long writing the checkpoint took."""
        self._interval = max(SECONDS, seconds / SHARE)
        self._last = time.monotonic()
