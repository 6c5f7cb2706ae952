"""`--cluster`: the workers of a command as tasks of a Ray cluster.

Nothing is handed out here either: every task knows all of the work and takes those parts that
nobody holds, in the folder of runs, which all machines share. The command itself works on none: it
waits until all are done. A task whose machine is lost begins again elsewhere, and goes on from what
was lost with it. (Handed out are the jobs of benchmarks, which have results to return, and, where
machines do not share the folder, cells and batches of pictures: `harness.cluster_attack`,
`evaluation.cluster_drawing`.)
"""

from __future__ import annotations

import contextlib
import os
import pickle
import secrets
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from apdm_cli import __version__
from apdm_cli.devices import resolve_device, resolve_dtype
from apdm_cli.errors import ApdmError, first_sentence
from apdm_cli.progress import Silent
from apdm_cli.runs.atomic import TEMPORARY_PREFIX, write_bytes_atomic
from apdm_cli.runs.cluster import INSTALL_RAY, require_ray
from apdm_cli.runs.interrupts import Stopped
from apdm_cli.runs.workers import AT_ONCE, PATIENCE, Task

RETRIES = 3  # of a task whose process or machine is lost
SOON = 30.0  # seconds in which an idle machine has started a process and imported torch


@dataclass(frozen=True)
class Cluster:
    """Where the tasks run, and with what.

    Attributes:
        address: "auto", "ray://HOST:PORT" or "HOST:PORT".
        workers: how many tasks; as many as there are cards (else processors), if None.
        gpus: cards that each task gets, also a part of one; 0 is the processor.
        dtype: by name; see `in_one_precision` for "auto".
        send_photos: send photos, too, to machines that get a run sent (`harness.errands`).
    """

    address: str
    workers: int | None = None
    gpus: float | None = None
    dtype: str = "auto"
    send_photos: bool = False


class NotShared(ApdmError):
    """A machine does not see the folder of runs."""


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

    @property
    def name(self) -> str:
        """Of the command, on any machine."""
        return self.token.hex()

    def refusal(self) -> str:
        """Why this machine cannot take part, in one sentence; "" where it can."""
        name = socket.gethostname()
        if differs := self.differs():
            return differs
        if not self.is_seen():
            return f"{name} does not see the folder of runs, {self.root}, as it is here"
        if not self.folder.is_dir():
            return f"{name} does not have the folder {self.folder}, where the command was started"
        return ""

    def differs(self) -> str:
        """As `refusal`, for other versions alone."""
        for package, wanted, here in (
            ("apdm", self.apdm, __version__),
            ("torch", self.torch, torch.__version__),
        ):
            if wanted != here:
                name = socket.gethostname()
                return f"{name} has {package} {here}, and the command runs with {wanted}"
        return ""

    def is_seen(self) -> bool:
        """Whether the folder of runs is the same here."""
        try:
            return (self.root / self.marker).read_bytes() == self.token
        except OSError:
            return False


def each_on_cluster(
    address: str, root: Path, work: Callable[[Any], Any], parts: Sequence[Any]
) -> Iterator[Any]:
    """`work` of every one of `parts`, each on a processor, in the order in which they are ready.

    Args:
        root: folder of runs, absolute: every machine has to see it.
        work: can be pickled; may come from a module in the folder that the command was started in.

    Raises:
        ApdmError: no cluster answers; a machine cannot take part; a part fails, which ends the
            others.
    """
    with joined(address, root) as (ray, place):
        answer = ray.remote(num_cpus=1, max_retries=RETRIES)(_answer)
        sent = pickle.dumps(work)
        tasks = Tasks(ray, [answer.remote(place, sent, part) for part in parts], str)
        try:
            yield from tasks.answers()
        finally:
            tasks.kill()


def in_one_precision(cluster: Cluster, said: Callable[[str], object]) -> Cluster:
    """`cluster` with what "auto" is on the first of its workers, for all of them.

    The command names cells and pictures by their precision, and has other cards than they, or none.

    Args:
        said: is told that a card is waited for.

    Raises:
        ApdmError: no cluster answers, or has what was asked for; a machine with other versions.
    """
    if cluster.dtype != "auto":
        return cluster
    name = "fp32"
    if cluster.gpus != 0:
        require_ray()
        import ray

        with _connected(ray, cluster.address):
            _, gpus = workers_of(ray, cluster)
            if gpus:
                ask = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(_precision)
                task = ask.remote(_place(Path(), "", b""))
                if not ray.wait([task], timeout=SOON)[0]:
                    said(
                        "The cluster has no card free, on which to see what --dtype auto is. This "
                        "waits for one; with --dtype bf16, fp16 or fp32 it would not."
                    )
                refused, name = Tasks(ray, (), str).get(task)
                if refused:
                    raise cannot_take_part(refused, anyway=True)
                if isinstance(name, ApdmError):
                    raise name
    return replace(cluster, dtype=name)


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
            refused, found = self.get(task)
            if refused:
                raise cannot_take_part(refused, found)
            if isinstance(found, ApdmError):
                raise found
            yield found

    def _hear(self, task: Any) -> None:
        refused, found = self.get(task)
        if refused:
            raise cannot_take_part(refused, found)
        if not isinstance(found, ApdmError):
            self.succeeded = True
        else:
            self.lost(found)

    def lost(self, error: ApdmError) -> None:
        """One of them has ended with `error`: say so, once, where others go on."""
        if error.what != self._last:
            self._last = error.what
            if self._tasks:
                self._said(f"A worker of the cluster has ended, and others go on: {self._last}")

    def get(self, task: Any) -> Any:
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


def cannot_take_part(why: str, anyway: bool) -> ApdmError:
    """For a machine that refuses; see `_work`."""
    return (ApdmError if anyway else NotShared)(
        f"--cluster: {why}",
        "Every machine needs the same apdm and torch, and the same folder of runs.",
    )


def start(
    ray: Any,
    cluster: Cluster,
    task: FarTask,
    place: Place,
    parts: int,
    said: Callable[[str], object],
) -> Tasks:
    """A task for each worker, as far as there is work for it."""
    count, gpus = workers_of(ray, cluster)
    work = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(_work)
    sent = pickle.dumps(task)
    tasks = [
        work.remote(place, sent, number, device_of(gpus), cluster.dtype)
        for number in range(2, min(parts, count) + 2)
    ]
    return Tasks(ray, tasks, said)


def device_of(gpus: float) -> str:
    """Where a task with so many cards computes."""
    return "auto" if gpus else "cpu"


@contextlib.contextmanager
def ending(tasks: Tasks) -> Iterator[Tasks]:
    """End `tasks` with the block; they write checkpoints first where a signal has stopped it."""
    try:
        yield tasks
    except Stopped:
        tasks.cancel(PATIENCE)
        raise
    finally:
        tasks.cancel(AT_ONCE)
        tasks.kill()


def workers_of(ray: Any, cluster: Cluster) -> tuple[int, float]:
    """How many workers there are at once, and how many cards each of them has.

    Raises:
        ApdmError: the cluster lacks what one needs.
    """
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
    return cluster.workers or max(1, usual), gpus


def node_here() -> str:
    """Which machine of the cluster a task runs on, as Ray calls it."""
    import ray

    return str(ray.get_runtime_context().get_node_id())


def elsewhere(ray: Any, node: str, gpus: float, number: int) -> dict[str, Any]:
    """Options for a task on another machine than `node`; nothing where no other could have it.

    If that machine is lost, Ray takes any.

    Args:
        gpus: cards that the task gets.
        number: counts such tasks, so that the other machines take turns.
    """
    others = [
        one["NodeID"]
        for one in ray.nodes()
        if one["Alive"]
        and one["NodeID"] != node
        and one["Resources"].get("CPU", 0) >= 1
        and one["Resources"].get("GPU", 0) >= gpus
    ]
    if not others:
        return {}
    on = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    return {"scheduling_strategy": on(others[number % len(others)], soft=True)}


def _work(place: Place, sent: bytes, number: int, device: str, dtype: str) -> tuple[str, Any]:
    """What a task of `start` does.

    Returns why its machine cannot take part, or "", and then whether it could not anyway: False
    where all that it lacks is the folder of runs.
    """
    if refused := place.refusal():
        return refused, bool(place.differs()) or place.is_seen()
    os.chdir(place.folder)  # paths are meant as they were typed
    target = resolve_device(device)
    task: FarTask = pickle.loads(sent)  # not before the versions are known to be the same
    task.in_precision(resolve_dtype(dtype, target)).work(target, number, Unheard())
    return "", None


def _precision(place: Place) -> tuple[str, str]:
    """What a task of `in_one_precision` does: why its machine refuses, or ""; what "auto" is."""
    if refused := place.differs():
        return refused, ""
    half = resolve_dtype("auto", resolve_device("auto")) == torch.bfloat16
    return "", "bf16" if half else "fp32"


def _answer(place: Place, sent: bytes, part: Any) -> tuple[str, Any]:
    """What a task of `each_on_cluster` does; as `_work`, and the answer."""
    if refused := place.refusal():
        return refused, bool(place.differs()) or place.is_seen()
    os.chdir(place.folder)
    if str(place.folder) not in sys.path:  # as `python -m` has it
        sys.path.insert(0, str(place.folder))
    return "", pickle.loads(sent)(part)


class Unheard(Silent):
    """The `Watcher` of a worker far away: the command sees what it leaves in the folder of runs."""

    def takes(self, title: str) -> None:
        """Show no cell."""

    def leaves(self) -> None:
        """Show no end."""


@contextlib.contextmanager
def joined(address: str, root: Path) -> Iterator[tuple[Any, Place]]:
    """Ray, connected with the cluster at `address`, and what its machines have to see."""
    require_ray()
    import ray

    with _connected(ray, address), _marked(root) as place:
        yield ray, place


@contextlib.contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    try:
        _connect(ray, address)
    except ImportError as error:  # Ray has come without what ray://HOST:PORT needs
        raise ApdmError(
            f"--cluster {address} needs Ray's client, which is not installed", INSTALL_RAY
        ) from error
    except Exception as error:  # Ray raises ConnectionError, RuntimeError, ValueError, its own
        raise ApdmError(
            f"--cluster {address}: no Ray cluster answers there ({first_sentence(error)})",
            "Start one with: ray start --head, and on every other machine: ray start --address=...",
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    """Connect; again where the head at ray://HOST:PORT failed to start a server for this client.

    On a busy head that happens now and then, and the next one starts.
    """
    for last in (False, False, True):
        try:
            ray.init(address=address, log_to_driver=False, logging_level="error")
            return
        except ConnectionAbortedError:
            if last:
                raise


@contextlib.contextmanager
def _marked(root: Path) -> Iterator[Place]:
    """A file in the folder of runs, by which another machine shows that it sees this folder."""
    token = secrets.token_bytes(16)
    marker = f"{TEMPORARY_PREFIX}cluster-{secrets.token_hex(8)}"
    write_bytes_atomic(root / marker, token)
    try:
        yield _place(root, marker, token)
    finally:
        (root / marker).unlink(missing_ok=True)


def _place(root: Path, marker: str, token: bytes) -> Place:
    return Place(root, marker, token, Path.cwd(), __version__, str(torch.__version__))
