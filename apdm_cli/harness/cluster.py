"""`--cluster`: the workers of a command as tasks of a Ray cluster.

Nothing is handed out here either: every task knows all of the work and takes those parts that
nobody holds, in the folder of runs, which all machines share. The command itself works on none: it
waits until all are done. A task whose machine is lost begins again elsewhere, and goes on from what
was lost with it. (Only benchmarks hand theirs out: their jobs have results to return.)
"""

from __future__ import annotations

import contextlib
import os
import pickle
import secrets
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from apdm_cli import __version__
from apdm_cli.devices import resolve_device, resolve_dtype
from apdm_cli.errors import ApdmError, first_sentence
from apdm_cli.harness.execute import Execution, Outcome
from apdm_cli.harness.plan import PlannedCell
from apdm_cli.harness.workers import Share
from apdm_cli.progress import Silent
from apdm_cli.runs.atomic import TEMPORARY_PREFIX, write_bytes_atomic
from apdm_cli.runs.cluster import require_ray
from apdm_cli.runs.interrupts import Stopped
from apdm_cli.runs.workers import AT_ONCE, PATIENCE, Task

RETRIES = 3  # of a task whose process or machine is lost


@dataclass(frozen=True)
class Cluster:
    """Where the tasks run, and with what.

    Attributes:
        address: "auto", "ray://HOST:PORT" or "HOST:PORT".
        workers: how many tasks; as many as there are cards (else processors), if None.
        gpus: cards that each task gets, also a part of one; 0 is the processor.
        dtype: as typed; it is resolved on the machine of each task.
    """

    address: str
    workers: int | None = None
    gpus: float | None = None
    dtype: str = "auto"


class FarTask(Task, Protocol):
    """A `Task` for machines whose cards are not known here."""

    def in_precision(self, dtype: torch.dtype) -> Task:
        """The same task, computed in `dtype`."""


@dataclass(frozen=True)
class Place:
    """What a machine of the cluster has to have in common with that of the command."""

    root: Path
    marker: str
    token: bytes
    folder: Path
    apdm: str
    torch: str

    def refusal(self) -> str:
        """Why this machine cannot take part, in one sentence; "" where it can."""
        name = socket.gethostname()
        for package, wanted, here in (
            ("apdm", self.apdm, __version__),
            ("torch", self.torch, torch.__version__),
        ):
            if wanted != here:
                return f"{name} has {package} {here}, and the command runs with {wanted}"
        try:
            shared = (self.root / self.marker).read_bytes() == self.token
        except OSError:
            shared = False
        if not shared:
            return f"{name} does not see the folder of runs, {self.root}, as it is here"
        if not self.folder.is_dir():
            return f"{name} does not have the folder {self.folder}, where the command was started"
        return ""


def attack_on_cluster(
    cluster: Cluster, share: Share, execution: Execution, cells: Sequence[PlannedCell]
) -> list[Outcome]:
    """Have every cell of `cells` done by tasks of `cluster`; returns their outcomes in order.

    Args:
        share: what each worker does; its folder of runs is absolute.
        execution: of the command, which only looks.

    Raises:
        ApdmError: see `working`; also where the workers have ended before the cells were done.
        Stopped: a signal arrived. The workers were ended, and had time to write checkpoints.
    """
    left = sum(execution.rerun or not cell.finished for cell in cells)
    said = execution.observer.said
    with working(cluster, share, share.request.root, left, said) as tasks:
        return execution.watch(cells, tasks.at_work)


@contextlib.contextmanager
def working(
    cluster: Cluster, task: FarTask, root: Path, parts: int, said: Callable[[str], None]
) -> Iterator[Tasks]:
    """Have workers on `cluster` do `task` while the block waits until all of it is done.

    When the block ends they are ended, too; they write checkpoints first where it was stopped by
    a signal.

    Args:
        root: folder of runs, absolute: every machine has to see it.
        parts: how many parts the work has, of which each worker takes one at a time.
        said: told of a worker that ends early while others go on.

    Raises:
        ApdmError: no cluster answers, or has what was asked for; a machine cannot take part.
    """
    with _joined(cluster.address, root) as (ray, place):
        tasks = Tasks(ray, _start(ray, cluster, task, place, parts), said)
        try:
            yield tasks
        except Stopped:
            tasks.cancel(PATIENCE)
            raise
        finally:
            tasks.cancel(AT_ONCE)
            tasks.kill()


def each_on_cluster(
    address: str, root: Path, work: Callable[[Any], Any], parts: Sequence[Any]
) -> Iterator[Any]:
    """`work` of every one of `parts`, each on a processor, in the order in which they are ready.

    Args:
        root: as in `working`.
        work: can be pickled; may come from a module in the folder that the command was started in.

    Raises:
        ApdmError: as `working`; also where a part fails, which ends the others.
    """
    with _joined(address, root) as (ray, place):
        answer = ray.remote(num_cpus=1, max_retries=RETRIES)(_answer)
        sent = pickle.dumps(work)
        tasks = Tasks(ray, [answer.remote(place, sent, part) for part in parts], str)
        try:
            yield from tasks.answers()
        finally:
            tasks.kill()


class Tasks:
    """The tasks that still run or wait."""

    def __init__(self, ray: Any, tasks: Sequence[Any], said: Callable[[str], object]) -> None:
        self._ray, self._tasks, self._said = ray, list(tasks), said
        self._last = ""  # what went wrong with the last that ended
        self.succeeded = False  # one has ended well: it found nothing left to do

    def at_work(self) -> str | None:
        """None while somebody works; else why nobody does."""
        if self._tasks:
            ended, self._tasks = self._ray.wait(
                self._tasks, num_returns=len(self._tasks), timeout=0
            )
            for task in ended:
                self._hear(task)
        return None if self._tasks else self._last

    def answers(self) -> Iterator[Any]:
        """What the tasks return, as they end; ApdmError with the first that fails."""
        while self._tasks:
            (task,), self._tasks = self._ray.wait(self._tasks, num_returns=1)
            refused, found = self._get(task)
            if refused:
                raise _cannot_take_part(refused)
            if isinstance(found, ApdmError):
                raise found
            yield found

    def _hear(self, task: Any) -> None:
        refused, found = self._get(task)
        if refused:
            raise _cannot_take_part(refused)
        if not isinstance(found, ApdmError):
            self.succeeded = True
        elif found.what != self._last:
            self._last = found.what
            if self._tasks:
                self._said(f"A worker of the cluster has ended, and others go on: {self._last}")

    def _get(self, task: Any) -> Any:
        """Why its machine refused or "", and its answer, or the ApdmError that it ended with."""
        try:
            return self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
            return "", cause if isinstance(cause, ApdmError) else ApdmError(first_sentence(cause))

    def cancel(self, patience: float) -> None:
        """Have them write their checkpoints, and wait so many seconds for that."""
        self._cancel(force=False)
        if self._tasks:
            with contextlib.suppress(Exception):
                self._ray.wait(self._tasks, num_returns=len(self._tasks), timeout=patience)

    def kill(self) -> None:
        """End them at once."""
        self._cancel(force=True)

    def _cancel(self, *, force: bool) -> None:
        for task in self._tasks:
            with contextlib.suppress(Exception):  # the cluster may be gone
                self._ray.cancel(task, force=force)


def _cannot_take_part(why: str) -> ApdmError:
    return ApdmError(
        f"--cluster: {why}",
        "Every machine needs the same apdm and torch, and the same folder of runs.",
    )


def _start(ray: Any, cluster: Cluster, task: FarTask, place: Place, parts: int) -> list[Any]:
    """A task for each worker, as far as there is work for it."""
    there = ray.cluster_resources()
    cards, processors = there.get("GPU", 0.0), there.get("CPU", 0.0)
    gpus = cluster.gpus if cluster.gpus is not None else float(cards > 0)
    if gpus > cards or processors < 1:
        raise ApdmError(
            f"--cluster {cluster.address}: a worker needs a processor and {gpus:g} cards, and the "
            f"cluster has {processors:g} processors and {cards:g} cards",
            "Ask for less with --gpus-per-worker; 0 is the processor alone.",
        )
    usual = int(min(processors, cards / gpus if gpus else processors))
    work = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(_work)
    sent = pickle.dumps(task)
    device = "auto" if gpus else "cpu"
    count = min(parts, cluster.workers or max(1, usual))
    return [
        work.remote(place, sent, number, device, cluster.dtype) for number in range(2, count + 2)
    ]


def _work(place: Place, sent: bytes, number: int, device: str, dtype: str) -> tuple[str, None]:
    """What a task of `working` does; returns why its machine cannot take part, or ""."""
    if refused := place.refusal():
        return refused, None
    os.chdir(place.folder)  # paths are meant as they were typed
    target = resolve_device(device)
    task: FarTask = pickle.loads(sent)  # not before the versions are known to be the same
    task.in_precision(resolve_dtype(dtype, target)).work(target, number, _Unheard())
    return "", None


def _answer(place: Place, sent: bytes, part: Any) -> tuple[str, Any]:
    """What a task of `each_on_cluster` does; as `_work`, and the answer."""
    if refused := place.refusal():
        return refused, None
    os.chdir(place.folder)
    if str(place.folder) not in sys.path:  # as `python -m` has it
        sys.path.insert(0, str(place.folder))
    return "", pickle.loads(sent)(part)


class _Unheard(Silent):
    """The `Watcher` of a worker far away: the command sees what it leaves in the folder of runs."""

    def takes(self, title: str) -> None:
        """Show no cell."""

    def leaves(self) -> None:
        """Show no end."""


@contextlib.contextmanager
def _joined(address: str, root: Path) -> Iterator[tuple[Any, Place]]:
    """Ray, connected with the cluster at `address`, and what its machines have to see."""
    require_ray()
    import ray

    with _connected(ray, address), _marked(root) as place:
        yield ray, place


@contextlib.contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error")
    except Exception as error:  # Ray raises ConnectionError, RuntimeError, ValueError, its own
        raise ApdmError(
            f"--cluster {address}: no Ray cluster answers there ({first_sentence(error)})",
            "Start one with: ray start --head, and on every other machine: ray start --address=...",
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _marked(root: Path) -> Iterator[Place]:
    """A file in the folder of runs, by which another machine shows that it sees this folder."""
    token = secrets.token_bytes(16)
    marker = f"{TEMPORARY_PREFIX}cluster-{secrets.token_hex(8)}"
    write_bytes_atomic(root / marker, token)
    try:
        yield Place(root, marker, token, Path.cwd(), __version__, str(torch.__version__))
    finally:
        (root / marker).unlink(missing_ok=True)
