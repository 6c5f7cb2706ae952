"""Ctrl-C while something is being imported waits for the end of that import.

Torch and diffusers import half of themselves when they are first used. An import that is broken
off leaves modules that are there in part, and what follows fails in ways that nobody understands.
"""

from __future__ import annotations

import _thread
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

POLL_SECONDS = 0.05


@contextmanager
def whole_imports() -> Iterator[None]:
    """Within it, Ctrl-C is a `KeyboardInterrupt` outside of imports only; a second one anywhere.

    Nothing is changed where Ctrl-C is ignored or handled by somebody else already.
    """
    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    handler = _Handler()
    signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class _Handler:
    def __init__(self) -> None:
        self._waits = False  # a Ctrl-C has come and is not told yet
        self._asks_again = False  # it is our own timer that calls

    def __call__(self, number: int, frame: FrameType | None) -> None:
        second = self._waits and not self._asks_again
        self._asks_again = False
        self._waits = _is_importing(frame) and not second
        if not self._waits:
            raise KeyboardInterrupt
        timer = threading.Timer(POLL_SECONDS, self._ask_again)
        timer.daemon = True
        timer.start()

    def _ask_again(self) -> None:
        if self._waits:
            self._asks_again = True
            if hasattr(signal, "pthread_kill"):  # a real one, which also ends waiting
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            else:
                _thread.interrupt_main(signal.SIGINT)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib._bootstrap"):
            return True
        frame = frame.f_back
    return False
