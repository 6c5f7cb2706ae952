"""Processes that begin before it is known what they will do.

A worker imports for seconds, and so does the command that it helps, before that knows its work.
Begun early, they do it at the same time. Nothing here imports torch, so that this comes first.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any

START = "spawn"  # how they begin, in the words of `multiprocessing`
# What opening any model imports, of any family: nine tenths of a worker's modules, with torch.
LIBRARIES = ("diffusers.pipelines.pipeline_utils",)


@dataclass(frozen=True)
class _Waiting:
    """A process that imports, or waits: it is told what to do, and reports."""

    process: BaseProcess
    orders: Connection
    reports: Connection

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.orders.close()


_waiting: list[_Waiting] = []


@contextlib.contextmanager
def beginning(count: int, modules: Sequence[str]) -> Iterator[None]:
    """Begin `count` processes, which import `modules`; those that nobody took end with the block.

    An import that fails is left to whoever needs it.
    """
    try:
        for _ in range(count):
            _waiting.append(_begin(modules))
        yield
    finally:
        dismiss()


def dismiss() -> None:
    """End those that still wait."""
    while _waiting:
        _waiting.pop().end()


def act_in_process(
    name: str, act: Callable[..., None], *given: Any
) -> tuple[BaseProcess, Connection]:
    """Have a process do `act(*given, end)`: one that waits, or else a new one.

    Returns:
        It, and what it sends through `end`.
    """
    found = _waiting.pop(0) if _waiting else _begin(())
    try:
        found.orders.send((act, given))
    except BaseException:  # what cannot be pickled
        found.end()
        raise
    found.orders.close()
    found.process.name = name
    return found.process, found.reports


def _begin(modules: Sequence[str]) -> _Waiting:
    context: Any = multiprocessing.get_context(START)
    told, orders = context.Pipe(duplex=False)
    # A pipe for each: one that is killed in the middle of a word keeps no other from speaking.
    reports, end = context.Pipe(duplex=False)
    process = context.Process(target=_wait, args=(told, end, tuple(modules)))
    with _without_ctrl_c():
        process.start()
    told.close()
    end.close()
    return _Waiting(process, orders, reports)


def _wait(told: Connection, end: Connection, modules: Sequence[str]) -> None:
    """What the process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the other process's
    # Heard meanwhile, so that whoever gives the order need not wait until it is taken.
    orders: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    threading.Thread(target=_hear, args=(told, orders), daemon=True).start()
    for name in modules:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    order = orders.get()
    if order is None:  # the other process has ended, or needs nobody
        return
    act, given = ForkingPickler.loads(order)
    act(*given, end)


def _hear(told: Connection, orders: queue.SimpleQueue[bytes | None]) -> None:
    try:
        orders.put(told.recv_bytes())
    except (EOFError, OSError):
        orders.put(None)


@contextlib.contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Processes that the block starts never see a terminal's Ctrl-C, not even while they import.

    It is theirs to be told by the process that they help. What arrives here meanwhile comes after.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # which would let Ctrl-C through again as it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
