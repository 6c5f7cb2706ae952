"""Several processes that make one result: each walks a way of its own, and they meet at every step.

The words are those of torch.distributed: the processes are ranks, numbered from 0. What they say to
each other goes through gloo; gradients on cards go through nccl. A rank that ends, however it ends,
closes its connections, and the others end at their next meeting.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from apdm_cli.errors import ApdmError
from apdm_cli.runs.launched import Launched
from apdm_cli.runs.lock import POLL_SECONDS
from apdm_cli.runs.workers import Task, Watcher, how_ended, started

# For what goes unnoticed otherwise: a machine that is lost, a process that stands still. What ends
# is noticed at once.
PATIENCE = timedelta(minutes=30)  # of a rank that has done its part of a step
LONGER = timedelta(days=7)  # while another one loads a model, or draws
MOMENT = 0.002  # seconds between two looks whether the others are there
LAST_WORDS = 10.0  # seconds until a rank that has closed its connections has ended
BUCKET = 1 << 24  # numbers that are sent together: 64 MiB


class RankLost(ApdmError):
    """Another rank has ended, or does not answer."""


class Ranks:
    """Which of several processes this one is, and what they exchange.

    `Ranks()` is the only one: it exchanges nothing.

    Args:
        number: of this one, from 0; rank 0 leads: it writes, and talks to the user.
        count: of all of them.
        patient: a group of all that waits longer for its members.

    All methods have to be called by all ranks in the same order, and raise `RankLost`.
    """

    def __init__(
        self, number: int = 0, count: int = 1, patient: dist.ProcessGroup | None = None
    ) -> None:
        self.number, self.count, self._patient = number, count, patient

    @property
    def leads(self) -> bool:
        """Whether this is rank 0."""
        return self.number == 0

    @property
    def own(self) -> str:
        """What its random streams' names begin with; those of rank 0 are those of one alone."""
        return "" if self.leads else f"rank {self.number}/"

    def gather(self, values: Sequence[float], *, patiently: bool = False) -> list[list[float]]:
        """What every rank gives, as many values each, in their order."""
        rows = self._exchange(torch.tensor(list(values), dtype=torch.float64), patiently=patiently)
        return [row.tolist() for row in rows]

    def wait(self) -> None:
        """Until all ranks are here."""
        self.gather([0.0], patiently=True)

    @torch.no_grad()
    def average(self, weights: Sequence[nn.Parameter]) -> None:
        """Let the gradient of every weight be its mean over all ranks.

        One that has none counts as zero; where no rank has one, there is none afterwards either.

        Raises:
            ApdmError: the weights themselves are no longer the same.
        """
        if self.count == 1:
            return
        there = torch.tensor([weight.grad is not None for weight in weights], dtype=torch.int64)
        rows = self._exchange(torch.cat([_digest(weights).view(1), there]))
        _require_same([int(row[0]) for row in rows])
        anywhere = torch.stack([row[1:] for row in rows]).amax(0).tolist()
        moved = [weight for weight, some in zip(weights, anywhere, strict=True) if some]
        for weight in moved:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        for bucket in _buckets([weight.grad for weight in moved if weight.grad is not None]):
            together = torch.cat([gradient.reshape(-1) for gradient in bucket])
            with _meeting():
                dist.all_reduce(together)
            together.div_(self.count)
            parts = together.split([gradient.numel() for gradient in bucket])
            for gradient, part in zip(bucket, parts, strict=True):
                gradient.copy_(part.view(gradient.shape))

    def require_same(self, weights: Sequence[nn.Parameter]) -> None:
        """Raise `ApdmError` where the weights are not the same in all ranks, bit for bit."""
        if self.count > 1:
            _require_same([int(row) for row in self._exchange(_digest(weights).view(1))])

    def _exchange(self, mine: Tensor, *, patiently: bool = False) -> list[Tensor]:
        if self.count == 1:
            return [mine]
        rows = [torch.empty_like(mine) for _ in range(self.count)]
        group = self._patient if patiently else None
        with _meeting():
            work = dist.all_gather(rows, mine, group=group, async_op=True)
            assert work is not None
            while not work.is_completed():  # signals are heeded meanwhile
                time.sleep(MOMENT)
            work.wait()
        return rows


@contextlib.contextmanager
def launched_ranks(place: Launched, device: torch.device) -> Iterator[Ranks]:
    """Of processes that a launcher has started; it says by the environment where they meet."""
    with _joined(place.number, place.count, device, {"init_method": "env://"}) as ranks:
        yield ranks


@contextlib.contextmanager
def meeting_in(
    folder: Path, number: int, count: int, device: torch.device, alive: Callable[[], None]
) -> Iterator[Ranks]:
    """Of processes of this machine that find each other in an empty folder of theirs.

    Args:
        alive: raises where another one has ended, so that nobody waits for it.
    """
    store = dist.FileStore(str(folder / "ranks"), count)
    store.set(f"here/{number}", "yes")
    everybody = [f"here/{other}" for other in range(count)]
    while not store.check(everybody):
        alive()
        time.sleep(POLL_SECONDS)
    with _within_this_machine(), _joined(number, count, device, {"store": store}) as ranks:
        yield ranks


@contextlib.contextmanager
def accompanied(
    task: Task, devices: Sequence[torch.device], watch: Callable[[str], Watcher]
) -> Iterator[Callable[[], None]]:
    """Have a rank on every device do its part while the block does that of rank 0.

    Yields what raises `RankLost` where one of them has ended. The error of a block that has lost
    one names it.
    """
    with started(task, devices, watch, "rank", first=1) as processes:

        def alive() -> None:
            for process in processes:
                if process.exitcode is not None:
                    raise RankLost(_lost(process))

        try:
            yield alive
        except RankLost as lost:
            wait([process.sentinel for process in processes], LAST_WORDS)
            gone = next((one for one in processes if one.exitcode is not None), None)
            if gone is not None:
                lost.what = _lost(gone)
            raise


def _lost(process: BaseProcess) -> str:
    return f"{process.name} ended early ({how_ended(process)}), so the others ended too"


@contextlib.contextmanager
def _joined(
    number: int, count: int, device: torch.device, where: dict[str, Any]
) -> Iterator[Ranks]:
    backend = "gloo"
    if device.type == "cuda":
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(device)
    with _meeting():
        dist.init_process_group(backend, world_size=count, rank=number, timeout=PATIENCE, **where)
        patient = dist.new_group(backend="gloo", timeout=LONGER)
    assert isinstance(patient, dist.ProcessGroup)
    try:
        yield Ranks(number, count, patient)
    except BaseException:
        # What a card still waits for will not come; the process ends, and with it its connections.
        if device.type != "cuda":
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()


@contextlib.contextmanager
def _meeting() -> Iterator[None]:
    """`RankLost` for what torch says where a rank is gone."""
    try:
        yield
    except RuntimeError as error:
        raise RankLost(
            "Another rank has ended or does not answer, so this one ended too"
        ) from error


@contextlib.contextmanager
def _within_this_machine() -> Iterator[None]:
    """Let gloo listen where no other machine can reach it, unless the user says where."""
    name = "GLOO_SOCKET_IFNAME"
    loopback = None
    if name not in os.environ and sys.platform != "win32":
        names = [name for _, name in socket.if_nameindex()]
        loopback = next((one for one in ("lo", "lo0") if one in names), None)
    if loopback is not None:
        os.environ[name] = loopback
    try:
        yield
    finally:
        if loopback is not None:
            del os.environ[name]


@torch.no_grad()
def _digest(weights: Sequence[Tensor]) -> Tensor:
    """A sum over the bits of all weights, which differs where a weight does: int64, on the CPU."""
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    sums = [weight.view(integers[weight.element_size()]).sum() for weight in weights]
    factors = torch.arange(1, 2 * len(sums), 2)  # odd, so that none is lost
    return (torch.stack(sums).cpu() * factors).sum()


def _require_same(digests: Sequence[int]) -> None:
    other = next((number for number, one in enumerate(digests) if one != digests[0]), None)
    if other is not None:
        raise ApdmError(
            f"The weights of rank {other} are no longer those of rank 0, so that their gradients "
            "have no mean",
            "Use machines, cards and versions that are the same everywhere.",
        )


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for gradient in gradients:
        if bucket and sum(one.numel() for one in bucket) + gradient.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket
