"""What a second core can do while the first one protects: commands of their own, one by one."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from apdm_cli.runs.interrupts import ending_in_order

POLL = 0.5  # seconds between two looks at whether they may begin


@contextmanager
def meanwhile(commands: Sequence[Sequence[str]], ready: Callable[[], bool]) -> Iterator[None]:
    """Runs `apdm` with each of `commands`, from when `ready` says so until the block ends.

    The one that runs then is stopped; a command that keeps a queue goes on from its checkpoint when
    it is given again. Nothing is shown of them, and nothing depends on them: whoever needs their
    results asks for them again, and is told then what went wrong.
    """
    over, running = threading.Event(), threading.Lock()
    processes: list[subprocess.Popen[bytes]] = []

    def begin(command: Sequence[str]) -> subprocess.Popen[bytes] | None:
        with running:
            if over.is_set():
                return None
            process = subprocess.Popen(
                [sys.executable, "-m", "apdm_cli", *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            processes.append(process)
            return process

    def work() -> None:
        while not ready():
            if over.wait(POLL):
                return
        for command in commands:
            if (process := begin(command)) is None:
                return
            process.wait()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        with ending_in_order():
            yield
    finally:
        with running:
            over.set()
            for process in processes:
                process.terminate()  # does nothing to one that has ended
        thread.join()
