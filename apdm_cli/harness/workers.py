"""Workers that help one `apdm attack`: processes of their own that drain the same queue.

Nothing is handed out: every worker plans the same cells and takes the next one that nobody holds
(`execute`). So a worker that dies leaves its cell to the others, who go on from its checkpoint.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

import torch

from apdm_cli.errors import ApdmError
from apdm_cli.extension.manager import (
    attacks,
    build_plugin_manager,
    families,
    metrics,
    registered_attacks,
)
from apdm_cli.harness.execute import Execution, Outcome
from apdm_cli.harness.judge import make_judge
from apdm_cli.harness.plan import PlannedCell
from apdm_cli.harness.request import AttackRequest
from apdm_cli.harness.stops import Drawing
from apdm_cli.progress import Progress
from apdm_cli.runs.interrupts import NOTICE, Stopped

__all__ = ["Share", "Watcher", "helping", "threads_each"]

PATIENCE = 60.0  # seconds that a worker gets for its checkpoint when the command is stopped


@dataclass(frozen=True)
class Share:
    """What a worker needs to plan and run the cells of the command that it helps.

    Attributes:
        request: the command's; the worker's own device takes the place of its.
        before: how far the cells were when the command began; see `Execution`.
        threads: of the worker on a processor.
        plugin_files, drawing, rerun, checkpoint_every, cell_timeout, events: the command's.
    """

    request: AttackRequest
    drawing: Drawing
    before: Mapping[Path, str]
    threads: int
    plugin_files: tuple[Path, ...] = ()
    rerun: bool = False
    checkpoint_every: int = 0
    cell_timeout: float = 0.0
    events: bool = False


class Watcher(Progress, Protocol):
    """Sees one worker."""

    def takes(self, title: str) -> None:
        """It begins a cell."""

    def leaves(self) -> None:
        """Its cell has ended, well or not."""


def threads_each(workers: int) -> int:
    """Threads of each of `workers` on this processor, at least one.

    Twice as many threads as cores are many times slower, not as fast: they wait for each other.
    """
    return max(1, torch.get_num_threads() // workers)


@contextlib.contextmanager
def helping(
    share: Share, devices: Sequence[torch.device], watch: Callable[[str], Watcher]
) -> Iterator[None]:
    """Have a worker on every device drain the queue while the block drains it, too.

    The block must look at every cell (`Execution` with `helped`): when it ends well, nothing is
    left to do, and the workers are ended. When it is stopped by a signal, they write their
    checkpoints first; a second signal ends all at once.

    Args:
        share: the command's.
        devices: of the workers, beside the caller's own; may repeat one.
        watch: the name of a worker → who is told of its progress.
    """
    if not devices:
        yield
        return
    workers: list[BaseProcess] = []
    watchers: dict[Connection, Watcher] = {}
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(share.threads)
        for number, device in enumerate(devices, start=2):
            name = f"worker {number} ({device})"
            worker, reports = _start(share, device, name)
            workers.append(worker)
            watchers[reports] = watch(name)
        threading.Thread(target=_listen, args=(watchers,), daemon=True).start()
        yield
        for worker, watcher in zip(workers, watchers.values(), strict=True):
            if worker.exitcode:  # by itself: those that are still there have nothing to do
                watcher.said(_died(worker))
        _end(workers)
    except Stopped:
        _end(workers)
        raise
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
        torch.set_num_threads(threads)


def _end(workers: Sequence[BaseProcess]) -> None:
    """Have them write their checkpoints, and leave as processes should."""
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join(PATIENCE)


def _start(share: Share, device: torch.device, name: str) -> tuple[BaseProcess, Connection]:
    context = multiprocessing.get_context("spawn")
    mine = replace(share, request=replace(share.request, device=device, known=None))
    # A pipe for each: one that is killed in the middle of a word keeps no other from speaking.
    reports, end = context.Pipe(duplex=False)
    worker = context.Process(target=_drain, args=(mine, end), name=name)
    with _without_ctrl_c():
        worker.start()
    end.close()
    return worker, reports


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


def _died(worker: BaseProcess) -> str:
    code = worker.exitcode or 0
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return f"{worker.name} ended early ({how}); the others have finished what it had begun."


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


class _Reports:
    """The `Observer` of a worker: sends everything to the process that it helps.

    Plans and outcomes stay here: the other process finds them in the cells' folders.
    """

    def __init__(self, end: Connection) -> None:
        self._end = end

    def _send(self, what: str, *arguments: Any, **values: Any) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more: `_end_with_parent` acts
            self._end.send((what, arguments, values))

    def planned(self, cells: Sequence[PlannedCell]) -> None:
        """It is the same plan."""

    def begin(self, planned: PlannedCell) -> None:
        self._send("takes", planned.title)

    def end(self, outcome: Outcome) -> None:
        self._send("leaves")

    def said(self, sentence: str) -> None:
        if sentence != NOTICE:  # whoever stops it knows
            self._send("said", sentence)

    def stage(self, description: str, total: int, done: int = 0, unit: str = "steps") -> None:
        self._send("stage", description, total, done, unit)

    def advance(self, count: int = 1, **terms: float) -> None:
        self._send("advance", count, **terms)


def _drain(share: Share, end: Connection) -> None:
    """What a worker does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the other process's
    # Outside of the queue: killed at once, it would leave semaphores of libraries behind.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    _end_with_parent()
    torch.set_num_threads(share.threads)
    reports = _Reports(end)
    try:
        manager = build_plugin_manager(share.plugin_files)
        request = replace(share.request, known=families(manager))
        arms, cells, _ = request.plan(registered_attacks(manager), share.drawing)
        Execution(
            arms,
            request.root,
            reports,
            judge=make_judge(metrics(manager)),
            rerun=share.rerun,
            checkpoint_every=share.checkpoint_every,
            attacks=attacks(manager),
            cell_timeout=share.cell_timeout,
            events=share.events,
            before=share.before,
            helped=True,
        ).run(cells)
    except Stopped as stopped:
        sys.exit(stopped.exit_code)
    except ApdmError as error:
        reports.said(error.what)
        sys.exit(1)


def _end_with_parent() -> None:
    """Stop, with a checkpoint, when the process that is helped is gone, however it went."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()
