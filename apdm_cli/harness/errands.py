"""Work of a Ray cluster, also where its machines do not see the folder of runs.

Where every machine sees it, workers drain the queue in it, as all workers do. Where one does not,
the command hands the work out: a task does a part of it in a folder of its own machine, from what
it is sent (`harness.luggage`), and what comes back is put into place here. A part whose machine is
lost begins again elsewhere. So does, once, a part that ends with an error, which may be of its
machine: what the user has asked for was looked at before anything was sent.
"""

from __future__ import annotations

import contextlib
import functools
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from apdm_cli.errors import ApdmError, UsageError, first_sentence, stopped
from apdm_cli.harness.cluster import (
    RETRIES,
    Cluster,
    FarTask,
    NotShared,
    Place,
    Tasks,
    cannot_take_part,
    device_of,
    elsewhere,
    ending,
    joined,
    node_here,
    start,
    workers_of,
)
from apdm_cli.harness.luggage import PHOTOS
from apdm_cli.runs.cluster import clear

CLEARING = 30.0  # seconds that machines get to remove what was left there
Part = TypeVar("Part")


@dataclass(frozen=True)
class Back:
    """What comes back of a part.

    Attributes:
        refused: why its machine cannot do it, for people; "" where it can.
        found: what there is, or what `Errands.refused` is told.
        error: with which it has ended, in the place of `found`.
        node, machine: where it was, as Ray and as people call it.
    """

    refused: str = ""
    found: Any = None
    error: ApdmError | None = None
    node: str = ""
    machine: str = ""


def told(do: Callable[..., tuple[str, Any]]) -> Callable[..., Back]:
    """`do` as a task of `Errands`: an error comes back with the machine that it has happened on."""

    @functools.wraps(do)
    def task(*given: Any) -> Back:
        node, machine = node_here(), socket.gethostname()
        try:
            return Back(*do(*given), node=node, machine=machine)
        except ApdmError as error:
            return Back(error=error, node=node, machine=machine)
        except Exception as error:  # of any library; not all of them can be sent
            return Back(error=ApdmError(first_sentence(error)), node=node, machine=machine)

    return task


class Errands(Tasks, ABC, Generic[Part]):
    """Tasks of a part of the work each, which need nothing but what they are sent.

    Args:
        parts: all of the work.
        do: what a task does, given the place, what `given` returns, a device and a precision by
            name. Below `told` it returns "" and what comes back; or why its machine cannot, for
            people, and what `refused` is told.

    Attributes:
        sends: what every machine is sent, for people.
        succeeded: no part was lost.
    """

    sends: str

    def __init__(
        self,
        ray: Any,
        cluster: Cluster,
        place: Place,
        parts: Sequence[Part],
        do: Callable[..., Back],
        said: Callable[[str], object],
    ) -> None:
        super().__init__(ray, (), said)
        self.succeeded = True
        self._place, self._waiting = place, list(parts)
        self._most, self._gpus = workers_of(ray, cluster)
        self._how = (device_of(self._gpus), cluster.dtype)
        self._errand = ray.remote(num_cpus=1, num_gpus=self._gpus, max_retries=RETRIES)(do)
        self._out: dict[Any, Part] = {}
        self._again: list[Part] = []  # those that are tried a second time, or were

    @abstractmethod
    def given(self, part: Part) -> tuple[Any, ...] | None:
        """What its task is given; () where nothing is left to do, None while others are at it."""

    @abstractmethod
    def put(self, part: Part, found: Any) -> None:
        """Put away what has come back of it."""

    def of_its_machine(self, found: Any) -> str:
        """What has gone wrong, where `found` tells of a failure that others may not meet."""
        return ""

    def let_go(self, part: Part) -> None:
        """Nothing comes back of it."""

    def refused(self, why: str, found: Any) -> ApdmError:
        """For a machine that cannot do a part, which ends the command; see `do`."""
        return cannot_take_part(why, anyway=True)

    def at_work(self) -> str | None:
        """Put away what has come back, and hand out more; as `Tasks.at_work`."""
        if self._tasks:
            ended, _ = self._ray.wait(self._tasks, num_returns=len(self._tasks), timeout=0)
            for task in ended:
                self._tasks.remove(task)
                self._receive(task)
        for part in list(self._waiting):
            if len(self._tasks) >= self._most:
                break
            self._hand_out(part)
        return None if self._tasks or self._waiting else self._last

    def lost(self, error: ApdmError) -> None:
        """As `Tasks.lost`."""
        self.succeeded = False
        super().lost(error)

    def kill(self) -> None:
        """End them, and leave nothing of them on any machine."""
        super().kill()
        for part in self._out.values():
            self.let_go(part)
        self._out.clear()
        with contextlib.suppress(Exception):  # the cluster may be gone
            addresses = [name for name in self._ray.cluster_resources() if _is_address(name)]
            # A sliver of what every machine has by its address: so there is one task on each.
            there = [{"num_cpus": 0, "resources": {name: 0.001}} for name in addresses]
            clearing = [self._ray.remote(**on)(clear) for on in there]
            tasks = [one.remote(self._place.name, PHOTOS) for one in clearing]
            self._ray.get(tasks, timeout=CLEARING)

    def _hand_out(self, part: Part) -> None:
        given = self.given(part)
        if given is None:
            return
        self._waiting.remove(part)
        if given:
            self._send(part, given, {})

    def _send(self, part: Part, given: tuple[Any, ...], where: dict[str, Any]) -> None:
        errand = self._errand.options(**where) if where else self._errand
        task = errand.remote(self._place, *given, *self._how)
        self._tasks.append(task)
        self._out[task] = part

    def _receive(self, task: Any) -> None:
        part, answer = self._out[task], self.get(task)
        # Of a task that Ray has given up only its error is known.
        back = answer if isinstance(answer, Back) else Back(error=answer[1])
        if not back.refused and self._tried_elsewhere(part, back):
            del self._out[task]
            return
        if not back.refused and back.error is None:
            self.put(part, back.found)
            del self._out[task]
            return
        self.let_go(part)
        del self._out[task]
        if back.refused:
            raise self.refused(back.refused, back.found)
        assert back.error is not None
        self.lost(back.error)

    def _tried_elsewhere(self, part: Part, back: Back) -> bool:
        """Whether it is tried a second time, because what went wrong may be of its machine."""
        if isinstance(back.error, UsageError) or any(part is one for one in self._again):
            return False
        wrong = back.error.what if back.error is not None else self.of_its_machine(back.found)
        where: dict[str, Any] = {}
        if wrong and back.node:
            where = elsewhere(self._ray, back.node, self._gpus, len(self._again))
        given = self.given(part) if where else None
        if not given:
            return False
        self._said(f"{back.machine}: {stopped(wrong)} It is tried once more on another machine.")
        self._again.append(part)
        self._send(part, given, where)
        return True


class Workers:
    """Those of a cluster, by the queue in the folder of runs, or by errands.

    Args:
        tasks: that share the queue, or errands.
        errands: begins them, where a machine does not see the folder of runs.
    """

    def __init__(
        self, tasks: Tasks, errands: Callable[[], Tasks], said: Callable[[str], object]
    ) -> None:
        self._tasks, self._errands, self._said = tasks, errands, said

    @property
    def succeeded(self) -> bool:
        """Whether nothing was left to do when they ended."""
        return self._tasks.succeeded

    def at_work(self) -> str | None:
        """None while somebody works; else why nobody does."""
        try:
            return self._tasks.at_work()
        except NotShared as error:
            self._said(f"{error.what.removeprefix('--cluster: ')}.")
            self._tasks.kill()
            self._tasks = self._errands()
            return None


@contextlib.contextmanager
def working(
    cluster: Cluster,
    task: FarTask,
    root: Path,
    parts: int,
    errands: Callable[[Any, Place], Errands[Any]],
    said: Callable[[str], None],
    *,
    send: bool = False,
) -> Iterator[Workers]:
    """Have workers on `cluster` do `task` while the block waits until all of it is done.

    When the block ends they are ended, too; they write checkpoints first where it was stopped by
    a signal.

    Args:
        root: folder of runs, absolute.
        parts: how many parts the work has, of which each worker takes one at a time.
        errands: the same work handed out, with Ray and the place.
        said: told of a worker that ends early while others go on, and what is sent.
        send: hand it out also where every machine sees the folder of runs.

    Raises:
        ApdmError: no cluster answers, or has what was asked for; a machine cannot take part.
    """
    with joined(cluster.address, root) as (ray, place), contextlib.ExitStack() as end:

        def handed_out() -> Tasks:
            made = errands(ray, place)
            said(f"The run is sent to the machines of the cluster: {made.sends}.")
            return end.enter_context(ending(made))

        if send:
            tasks = handed_out()
        else:
            tasks = end.enter_context(ending(start(ray, cluster, task, place, parts, said)))
        yield Workers(tasks, handed_out, said)


def _is_address(resource: str) -> bool:
    return resource.startswith("node:") and "__" not in resource
