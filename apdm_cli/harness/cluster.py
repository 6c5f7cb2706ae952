"""`apdm attack --cluster`: workers of the same queue as tasks of a Ray cluster.

Nothing is handed out here either: every task plans the command's cells and takes those that nobody
holds, in the folder of runs, which all machines share. The command itself works on none: it waits
until all are done. A task whose machine is lost begins again elsewhere, and goes on from the
checkpoint of the cell that was lost with it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import secrets
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
from apdm_cli.runs.workers import PATIENCE

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
    workers: int | None
    gpus: float | None
    dtype: str


@dataclass(frozen=True)
class _Place:
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
        ApdmError: no cluster answers, or has what was asked for; a machine cannot take part; the
            workers have ended before the cells were done.
        Stopped: a signal arrived. The workers were ended, and had time to write checkpoints.
    """
    require_ray()
    import ray

    with _connected(ray, cluster.address), _marked(share.request.root) as place:
        tasks = _Tasks(ray, _start(ray, cluster, share, place, cells, execution.rerun))
        try:
            return execution.watch(cells, tasks.at_work)
        except Stopped:
            tasks.cancel()
            raise
        finally:
            tasks.cancel(at_once=True)


class _Tasks:
    """The tasks that still run or wait."""

    def __init__(self, ray: Any, tasks: Sequence[Any]) -> None:
        self._ray, self._tasks = ray, list(tasks)
        self._last = ""  # what went wrong with the last that ended

    def at_work(self) -> str | None:
        """None while somebody works; else why nobody does."""
        if self._tasks:
            ended, self._tasks = self._ray.wait(
                self._tasks, num_returns=len(self._tasks), timeout=0
            )
            for task in ended:
                self._hear(task)
        return None if self._tasks else self._last

    def _hear(self, task: Any) -> None:
        try:
            refused = self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            self._last = cause.what if isinstance(cause, ApdmError) else first_sentence(error)
            return
        if refused:
            raise ApdmError(
                f"--cluster: {refused}",
                "Every machine needs the same apdm and torch, and the same folder of runs.",
            )

    def cancel(self, *, at_once: bool = False) -> None:
        """Have them write their checkpoints, and wait for that; or end them `at_once`."""
        for task in self._tasks:
            with contextlib.suppress(Exception):  # the cluster may be gone
                self._ray.cancel(task, force=at_once)
        if not at_once and self._tasks:
            with contextlib.suppress(Exception):
                self._ray.wait(self._tasks, num_returns=len(self._tasks), timeout=PATIENCE)


def _start(
    ray: Any,
    cluster: Cluster,
    share: Share,
    place: _Place,
    cells: Sequence[PlannedCell],
    rerun: bool,
) -> list[Any]:
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
    left = sum(rerun or not cell.finished for cell in cells)
    work = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(_drain)
    sent = pickle.dumps(share)
    device = "auto" if gpus else "cpu"
    count = min(left, cluster.workers or max(1, usual))
    return [
        work.remote(place, sent, number, device, cluster.dtype) for number in range(2, count + 2)
    ]


def _drain(place: _Place, sent: bytes, number: int, device: str, dtype: str) -> str:
    """What a task does; returns why its machine cannot take part, or ""."""
    if refused := place.refusal():
        return refused
    os.chdir(place.folder)  # paths are meant as they were typed
    target = resolve_device(device)
    share = pickle.loads(sent)  # not before the versions are known to be the same
    request = replace(share.request, dtype=resolve_dtype(dtype, target))
    replace(share, request=request).work(target, number, _Unheard())
    return ""


class _Unheard(Silent):
    """The `Watcher` of a worker far away: the command finds its cells' ends in their folders."""

    def takes(self, title: str) -> None:
        """Show no cell."""

    def leaves(self) -> None:
        """Show no end."""


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
def _marked(root: Path) -> Iterator[_Place]:
    """A file in the folder of runs, by which another machine shows that it sees this folder."""
    token = secrets.token_bytes(16)
    marker = f"{TEMPORARY_PREFIX}cluster-{secrets.token_hex(8)}"
    write_bytes_atomic(root / marker, token)
    try:
        yield _Place(root, marker, token, Path.cwd(), __version__, str(torch.__version__))
    finally:
        (root / marker).unlink(missing_ok=True)
