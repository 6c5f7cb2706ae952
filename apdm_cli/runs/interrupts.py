"""Stop between two steps, not within one."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from apdm_cli.errors import ApdmError

# Ctrl-C, the end of a session or of a batch job's time, and the closing of a terminal.
STOPPING = ("SIGINT", "SIGTERM", "SIGHUP")
NOTICE = "Stopping after this step or picture; a second Ctrl-C stops at once."


class Stopped(ApdmError):
    """A signal arrived and what can be gone on with is kept; `apdm` exits like interrupted ones.

    `what` is whole sentences. The command line adds what to type to go on.

    exit_code: 128 and the signal's number, as a shell reports it: 130 after Ctrl-C, 143 after
    SIGTERM, 129 after SIGHUP.
    """

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what, hint)
        self.exit_code = 128 + StopSignals.latest


class Ended(SystemExit):
    """A signal arrived that ends the process here and now, whatever it is doing."""


@contextlib.contextmanager
def ending_in_order() -> Iterator[None]:
    """SIGTERM and SIGHUP leave the block as `Ended`, so that what it has begun is ended, too.

    Without a handler the system ends this process alone, and processes that it started go on.
    """
    kept: dict[int, object] = {}

    def end(number: int, frame: FrameType | None) -> None:
        raise Ended(128 + number)

    if threading.current_thread() is threading.main_thread():
        for name in STOPPING:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                kept[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


class StopSignals:
    """Notes a signal while it is entered; a second one ends the process at once.

    A second Ctrl-C is a `KeyboardInterrupt`, a second SIGTERM or SIGHUP `Ended`. A third ends the
    process even where somebody else's code has caught the second.

    Args:
        notice: called at the first signal, to tell the user that a step is still being finished.
    """

    latest = int(signal.SIGINT)  # the number of the signal that arrived last

    def __init__(self, notice: Callable[[], None] | None = None) -> None:
        self.received = False
        self._notice = notice
        self._count = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        # Only the main thread may install handlers; elsewhere the caller's own handling stays.
        if threading.current_thread() is threading.main_thread():
            for name in STOPPING:
                number = getattr(signal, name, None)  # Windows has no SIGHUP
                # Whoever started us with nohup wants the terminal's end to be ignored.
                if number is not None and signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        StopSignals.latest = number
        self._count += 1
        if self._count > 2:
            os._exit(128 + number)
        if self.received:
            raise KeyboardInterrupt if number == signal.SIGINT else Ended(128 + number)
        self.received = True
        if self._notice is not None:
            self._notice()
