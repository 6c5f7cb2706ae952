"""`apdm attack --cluster`: the cells by workers of a Ray cluster.

Where machines do not see the folder of runs, the command holds the lock of a cell, a task does the
cell in a folder of its own machine, and what comes back is published here as a whole
(`harness.sending`).
"""

from __future__ import annotations

import pickle
import socket
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from apdm_cli.devices import resolve_device, resolve_dtype
from apdm_cli.errors import ApdmError
from apdm_cli.harness.cluster import Cluster, Place, Unheard
from apdm_cli.harness.errands import Errands, told, working
from apdm_cli.harness.execute import Execution, Outcome
from apdm_cli.harness.luggage import Files, Luggage
from apdm_cli.harness.plan import PlannedCell
from apdm_cli.harness.sending import (
    CellName,
    do_cell,
    failure_of,
    luggage_of,
    name_of,
    put_cell,
)
from apdm_cli.harness.workers import Share
from apdm_cli.runs.cluster import home_of
from apdm_cli.runs.lock import Held

# Errors of cells, by type, that another machine may not meet.
OF_MACHINES = ("OutOfMemoryError", "MemoryError", "AcceleratorError", "OSError")


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
    left = sum(execution.rerun or not cell.finished for cell in cells)

    def errands(ray: Any, place: Place) -> CellErrands:
        return CellErrands(ray, cluster, share, place, execution, cells)

    with working(
        cluster,
        share,
        share.request.root,
        left,
        errands,
        execution.observer.said,
        send=cluster.send_photos and left > 0,
    ) as workers:
        return execution.watch(cells, workers.at_work)


class CellErrands(Errands[PlannedCell]):
    """A cell each."""

    def __init__(
        self,
        ray: Any,
        cluster: Cluster,
        share: Share,
        place: Place,
        execution: Execution,
        cells: Sequence[PlannedCell],
    ) -> None:
        left = [cell for cell in cells if execution.rerun or not cell.finished]
        super().__init__(ray, cluster, place, left, _errand, execution.observer.said)
        self._execution = execution
        photos = tuple(path.expanduser().absolute() for path in share.request.photos)
        share = replace(share, before={}, request=replace(share.request, photos=photos))
        arms = [cell.arm for cell in cells]  # of finished ones, too: the machine plans all of them
        run = execution.arms.run
        luggage = luggage_of(share, run, arms, send_photos=cluster.send_photos)
        self.sends, self._photos = luggage.described, luggage.photos
        self._sent, self._luggage = pickle.dumps(share), ray.put(luggage)

    def given(self, planned: PlannedCell) -> tuple[Any, ...] | None:
        """Claims it, unless another process works on it, or has just done it."""
        try:
            planned.cell.claim()
        except Held:
            return None
        if planned.finished and not self._execution.rerun:
            planned.cell.let_go()
            return ()
        budgets = tuple(sorted({*planned.job.budgets, *planned.found_budgets()}))
        return self._sent, self._luggage, name_of(planned), budgets

    def put(self, planned: PlannedCell, found: Files) -> None:
        """Publish its files."""
        put_cell(found, planned, self._execution.arms)

    def of_its_machine(self, found: Files) -> str:
        """The error of a cell that has met the end of the memory or the disk, or a broken card."""
        failure = failure_of(found)
        return str(failure["error"]) if failure.get("type") in OF_MACHINES else ""

    def let_go(self, planned: PlannedCell) -> None:
        """For other processes."""
        planned.cell.let_go()

    def refused(self, why: str, found: Any) -> ApdmError:
        """As `Errands.refused`; what photos are not there."""
        if found:
            return super().refused(why, found)
        return ApdmError(
            f"--cluster: {why}",
            f"Put them there, or add --send-photos, which sends {self._photos}. They "
            "are private: every machine that does a cell has a copy of them meanwhile.",
        )


@told
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
