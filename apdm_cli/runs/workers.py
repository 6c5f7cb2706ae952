"""Workers that help one command: processes of their own, each on a device.

`helping`: nothing is handed out, every worker knows all of the work and takes the next part that
nobody holds. So one that dies leaves its part to the others. Where every part is needed at every
step (`runs.ranks`), one that dies ends the others.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

import torch

from apdm_cli.devices import make_current
from apdm_cli.errors import ApdmError
from apdm_cli.progress import Progress
from apdm_cli.runs.early import act_in_process, dismiss
from apdm_cli.runs.interrupts import Stopped

PATIENCE = 60.0  # seconds that a worker gets for its checkpoint when the command is stopped
AT_ONCE = 1.0  # and to leave without one


class Watcher(Progress, Protocol):
    """Sees one worker."""

    def takes(self, title: str) -> None:
        """It begins a part of the work."""

    def leaves(self) -> None:
        """That part has ended, well or not."""


class Reports:
    """The `Watcher` in a worker: sends everything to the process that it helps."""

    def __init__(self, end: Connection) -> None:
        self._end = end

    def takes(self, title: str) -> None:
        self._send("takes", title)

    def leaves(self) -> None:
        self._send("leaves")

    def said(self, sentence: str) -> None:
        self._send("said", sentence)

    def stage(self, description: str, total: int, done: int = 0, unit: str = "steps") -> None:
        self._send("stage", description, total, done, unit)

    def advance(self, count: int = 1, **terms: float) -> None:
        self._send("advance", count, **terms)

    def _send(self, what: str, *arguments: Any, **values: Any) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more: `_end_with_parent` acts
            self._end.send((what, arguments, values))


class Task(Protocol):
    """What every worker of a command does. It is sent to them, so it can be pickled."""

    @property
    def threads(self) -> int:
        """Of each worker on a processor."""

    def work(self, device: torch.device, number: int, reports: Watcher) -> None:
        """Take parts until none is left.

        Args:
            number: of this worker; the command's own process is 1.
        """


def threads_each(workers: int) -> int:
    """Threads of each of `workers` on this processor, at least one.

    Twice as many threads as cores are many times slower, not as fast: they wait for each other.
    """
    return max(1, torch.get_num_threads() // workers)


@contextlib.contextmanager
def helping(
    task: Task, devices: Sequence[torch.device], watch: Callable[[str], Watcher]
) -> Iterator[None]:
    """Have a worker on every device do `task` while the block does it, too.

    The block must see to it that everything is done: when it ends well, nothing is left to do,
    and the workers are ended. When it is stopped by a signal, they write their checkpoints
    first; a second signal ends all at once.

    Args:
        devices: of the workers, beside the caller's own; may repeat one.
        watch: the name of a worker → who is told of its progress.
    """
    if not devices:
        dismiss()
        yield
        return
    with started(task, devices, watch, "worker", first=2) as workers:
        yield
        for worker, watcher in workers.items():
            if worker.exitcode:  # by itself: those that are still there have nothing to do
                watcher.said(
                    f"{worker.name} ended early ({how_ended(worker)}); the others have finished "
                    "what it had begun."
                )


@contextlib.contextmanager
def started(
    task: Task,
    devices: Sequence[torch.device],
    watch: Callable[[str], Watcher],
    called: str,
    *,
    first: int,
) -> Iterator[Mapping[BaseProcess, Watcher]]:
    """Have a process on every device do `task` during the block; they end when it does.

    A block that is stopped by a signal lets them write their checkpoints, unless it was Ctrl-C
    twice.

    Args:
        called: what they are, for messages.
        first: number of the first one.
    """
    workers: dict[BaseProcess, Watcher] = {}
    watchers: dict[Connection, Watcher] = {}
    threads, listener = torch.get_num_threads(), None
    try:
        torch.set_num_threads(task.threads)
        for number, device in enumerate(devices, start=first):
            name = f"{called} {number} ({device})"
            worker, reports = act_in_process(name, _work, task, device, number)
            workers[worker] = watchers[reports] = watch(name)
        dismiss()  # more had begun than there is work for
        listener = threading.Thread(target=_listen, args=(watchers,), daemon=True)
        listener.start()
        yield workers
        _end(workers)
        listener.join(PATIENCE)  # what they said last belongs to this block
    except Stopped:
        _end(workers)
        raise
    except KeyboardInterrupt:
        _end(workers, AT_ONCE)
        raise
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
        if listener is not None:
            listener.join(AT_ONCE)  # what they said last, also where the block has failed
        torch.set_num_threads(threads)


def _end(workers: Iterable[BaseProcess], patience: float = PATIENCE) -> None:
    """Have them write their checkpoints, and leave as processes should."""
    workers = list(workers)
    for worker in workers:
        worker.terminate()
    until = time.monotonic() + patience
    for worker in workers:
        worker.join(max(0.0, until - time.monotonic()))


def how_ended(worker: BaseProcess) -> str:
    """In a few words, of one that has ended."""
    code = worker.exitcode or 0
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _listen(watchers: Mapping[Connection, Watcher]) -> None:
    """Pass on what the workers report until all of them are gone."""
    open_ends = list(watchers)
    while open_ends:
        for ready in wait(open_ends):
            assert isinstance(ready, Connection)
            try:
                what, arguments, values = ready.recv()
            except (EOFError, OSError):
                open_ends.remove(ready)
                watchers[ready].leaves()
                continue
            getattr(watchers[ready], what)(*arguments, **values)


def _work(task: Task, device: torch.device, number: int, end: Connection) -> None:
    """What a worker does."""
    # Where nothing else heeds it: killed at once, it would leave semaphores of libraries behind.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    _end_with_parent()
    torch.set_num_threads(task.threads)
    make_current(device)
    reports = Reports(end)
    try:
        task.work(device, number, reports)
    except Stopped as stopped:
        sys.exit(stopped.exit_code)
    except ApdmError as error:
        reports.said(error.what)
        sys.exit(1)
    finally:
        # It leaves already: an exit raised while the interpreter closes would only be printed.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _end_with_parent() -> None:
    """Stop, with a checkpoint, when the process that is helped is gone, however it went."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()
