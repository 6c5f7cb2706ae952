"""`apdm attack --cluster`: the cells by workers of a Ray cluster.

Where every machine sees the folder of runs, they drain its queue as all workers do. Where one does
not, the command hands the cells out: it holds the lock of a cell, a task does the cell in a folder
of its own machine, and what comes back is published here as a whole (`harness.sending`). A cell
whose machine is lost begins again elsewhere.
"""

from __future__ import annotations

import contextlib
import pickle
import socket
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from apdm_cli.devices import resolve_device, resolve_dtype
from apdm_cli.errors import ApdmError
from apdm_cli.harness.cluster import (
    RETRIES,
    Cluster,
    NotShared,
    Place,
    Tasks,
    Unheard,
    cannot_take_part,
    device_of,
    ending,
    joined,
    start,
    workers_of,
)
from apdm_cli.harness.execute import Execution, Outcome
from apdm_cli.harness.plan import PlannedCell
from apdm_cli.harness.sending import PHOTOS, CellName, Luggage, do_cell, name_of, put_cell
from apdm_cli.harness.workers import Share
from apdm_cli.runs.cluster import clear, home_of
from apdm_cli.runs.lock import Held

CLEARING = 30.0  # seconds that machines get to remove what was left there


def attack_on_cluster(
    cluster: Cluster, share: Share, execution: Execution, cells: Sequence[PlannedCell]
) -> list[Outcome]:
    """Have every cell of `cells` done by tasks of `cluster`; returns their outcomes in order.

    Args:
        share: what each worker does; its folder of runs is absolute.
        execution: of the command, which only looks.

    Raises:
        ApdmError: no cluster answers, or has what was asked for; a machine cannot take part, or
            lacks photos that are not sent; the workers have ended before the cells were done.
        Stopped: a signal arrived. The workers were ended, and had time to write checkpoints,
            which count where the folder is shared.
    """
    said = execution.observer.said
    left = [cell for cell in cells if execution.rerun or not cell.finished]
    with joined(cluster.address, share.request.root) as (ray, place), contextlib.ExitStack() as end:

        def handed_out() -> Tasks:
            errands = Errands(ray, cluster, share, place, execution, left)
            said(f"The run is sent to the machines of the cluster: {errands.sends}.")
            return end.enter_context(ending(errands))

        if cluster.send_photos and left:
            tasks = handed_out()
        else:
            tasks = end.enter_context(ending(start(ray, cluster, share, place, len(left), said)))

        def at_work() -> str | None:
            nonlocal tasks
            try:
                return tasks.at_work()
            except NotShared as error:
                said(f"{error.what.removeprefix('--cluster: ')}.")
                tasks.kill()
                tasks = handed_out()
                return None

        return execution.watch(cells, at_work)


class Errands(Tasks):
    """Tasks of a cell each, which need nothing but what they are sent.

    Attributes:
        sends: what that is, for people.
    """

    def __init__(
        self,
        ray: Any,
        cluster: Cluster,
        share: Share,
        place: Place,
        execution: Execution,
        cells: Sequence[PlannedCell],
    ) -> None:
        super().__init__(ray, (), execution.observer.said)
        self._place, self._execution, self._waiting = place, execution, list(cells)
        self._most, gpus = workers_of(ray, cluster)
        self._how = (device_of(gpus), cluster.dtype)
        photos = tuple(path.expanduser().absolute() for path in share.request.photos)
        share = replace(share, before={}, request=replace(share.request, photos=photos))
        arms = [cell.arm for cell in cells]
        run = execution.arms.run
        luggage = Luggage.of(share, run, arms, photos=cluster.send_photos)
        self.sends, self._photos = luggage.described, luggage.photos
        self._sent, self._luggage = pickle.dumps(share), ray.put(luggage)
        self._errand = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(_errand)
        self._out: dict[Any, PlannedCell] = {}

    def at_work(self) -> str | None:
        """Put away what has come back, and hand out more; as `Tasks.at_work`."""
        if self._tasks:
            ended, _ = self._ray.wait(self._tasks, num_returns=len(self._tasks), timeout=0)
            for task in ended:
                self._tasks.remove(task)
                self._receive(task)
        for planned in list(self._waiting):
            if len(self._tasks) >= self._most:
                break
            self._hand_out(planned)
        return None if self._tasks or self._waiting else self._last

    def kill(self) -> None:
        """End them, and leave nothing of them on any machine."""
        super().kill()
        for planned in self._out.values():
            planned.cell.let_go()
        self._out.clear()
        with contextlib.suppress(Exception):  # the cluster may be gone
            addresses = [name for name in self._ray.cluster_resources() if _is_address(name)]
            # A sliver of what every machine has by its address: so there is one task on each.
            there = [{"num_cpus": 0, "resources": {name: 0.001}} for name in addresses]
            clearing = [self._ray.remote(**on)(clear) for on in there]
            tasks = [one.remote(self._place.name, PHOTOS) for one in clearing]
            self._ray.get(tasks, timeout=CLEARING)

    def _hand_out(self, planned: PlannedCell) -> None:
        """Unless another process works on the cell, or has just done it."""
        try:
            planned.cell.claim()
        except Held:
            return
        self._waiting.remove(planned)
        if planned.finished and not self._execution.rerun:
            planned.cell.let_go()
            return
        budgets = tuple(sorted({*planned.job.budgets, *planned.found_budgets()}))
        given = (self._place, self._sent, self._luggage, name_of(planned), budgets)
        task = self._errand.remote(*given, *self._how)
        self._tasks.append(task)
        self._out[task] = planned

    def _receive(self, task: Any) -> None:
        planned = self._out[task]
        refused, found = self.get(task)
        if not refused and not isinstance(found, ApdmError):
            put_cell(found, planned, self._execution.arms)
            del self._out[task]
            return
        planned.cell.let_go()
        del self._out[task]
        if not refused:
            self.lost(found)
        elif found:
            raise cannot_take_part(refused, anyway=True)
        else:
            raise ApdmError(
                f"--cluster: {refused}",
                f"Put them there, or add --send-photos, which sends {self._photos}. They "
                "are private: every machine that does a cell has a copy of them meanwhile.",
            )


def _errand(
    place: Place,
    sent: bytes,
    luggage: Luggage,
    cell: CellName,
    budgets: tuple[float, ...],
    device: str,
    dtype: str,
) -> tuple[str, Any]:
    """Do one cell.

    Returns why its machine cannot, or "", and then its files; with a reason, whether it is another
    one than photos that are not there.
    """
    if refused := place.differs():
        return refused, True
    if absent := luggage.absent():
        return f"{socket.gethostname()} does not have the photos {absent}", False
    target = resolve_device(device)
    share: Share = pickle.loads(sent)  # not before the versions are known to be the same
    share = share.in_precision(resolve_dtype(dtype, target))
    return "", do_cell(share, luggage, cell, budgets, home_of(place.name), target, Unheard())


def _is_address(resource: str) -> bool:
    return resource.startswith("node:") and "__" not in resource
