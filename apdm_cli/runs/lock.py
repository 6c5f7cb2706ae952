"""One process at a time per folder. The system lets go when the process ends, however it ends."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from apdm_cli.errors import ApdmError

if sys.platform != "win32":
    import fcntl

POLL_SECONDS = 0.25  # between two looks at a folder that another process holds


class Held(ApdmError):
    """Another process, or another lock of this one, works in the folder."""


class FolderLock:
    """Holds `folder` until `release`. A rename of the folder does not disturb it.

    Raises:
        Held: another process (or another lock of this one) holds it.
        FileNotFoundError: there is no such folder, or no longer.
    """

    def __init__(self, folder: Path) -> None:
        self._handle: int | None = None
        if sys.platform == "win32":
            return  # folders cannot be locked there: two processes are the user's own care
        try:
            handle = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            raise
        except OSError as error:  # closed to us, or no file descriptor left
            raise ApdmError(
                f"{folder} cannot be opened: {error.strerror or error}",
                "Check that it is there, and its permissions.",
            ) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise Held(
                f"Another apdm process is working in {folder}",
                "Wait until it has ended, or end it first.",
            ) from error
        except OSError:  # a file system without locks
            os.close(handle)
            return
        self._handle = handle
        if not self.holds(folder):
            # Whoever held it has renamed it in the meantime: this is the lock of another name.
            self.release()
            raise FileNotFoundError(folder)

    def holds(self, folder: Path) -> bool:
        """Whether `folder` is still the one that was locked, not a new one in its place."""
        if self._handle is None:
            return True  # nothing is known where folders cannot be locked
        try:
            return os.path.samestat(os.fstat(self._handle), os.stat(folder))
        except OSError:
            return False

    def release(self) -> None:
        """Let go. A second call does nothing."""
        if self._handle is not None:
            with contextlib.suppress(OSError):
                os.close(self._handle)
            self._handle = None

    def __del__(self) -> None:
        self.release()


@contextlib.contextmanager
def holding(folder: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold `folder`, which exists, during the block; wait while another process does.

    Args:
        waiting: called once if there is somebody to wait for, to tell the user.
    """
    told = False
    while True:
        try:
            lock = FolderLock(folder)
            break
        except Held:
            if not told:
                waiting()
            told = True
            time.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        lock.release()
