"""Stop between two steps, not within one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType

from apdm_cli.errors import ApdmError


class Stopped(ApdmError):
    """A signal arrived and the run was checkpointed; `apdm` exits like an interrupted program."""

    exit_code = 130


class StopSignals:
    """Notes SIGINT and SIGTERM while it is entered; a second SIGINT interrupts at once.

    Args:
        notice: called at the first signal, to tell the user that a step is still being finished.
    """

    def __init__(self, notice: Callable[[], None] | None = None) -> None:
        self.received = False
        self._notice = notice
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        # Only the main thread may install handlers; elsewhere the caller's own handling stays.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        first, self.received = not self.received, True
        if first and self._notice is not None:
            self._notice()
