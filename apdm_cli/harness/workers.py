"""Workers that help one `apdm attack`: they drain the same queue of cells (`execute`).

A worker that dies leaves its cell to the others, who go on from its checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from apdm_cli.extension.manager import (
    attacks,
    build_plugin_manager,
    families,
    metrics,
    registered_attacks,
)
from apdm_cli.harness.execute import Execution, Outcome
from apdm_cli.harness.judge import make_judge
from apdm_cli.harness.keeping import Keep
from apdm_cli.harness.plan import PlannedCell
from apdm_cli.harness.request import AttackRequest
from apdm_cli.harness.stops import Drawing
from apdm_cli.runs.interrupts import NOTICE
from apdm_cli.runs.workers import Watcher


@dataclass(frozen=True)
class Share:
    """What a worker needs to plan and run the cells of the command that it helps: a `Task`.

    Attributes:
        request: the command's; the worker's own device takes the place of its.
        before: how far the cells were when the command began; see `Execution`.
        threads: of the worker on a processor.
        plugin_files, drawing, rerun, checkpoint_every, cell_timeout, events, keep: the command's.
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
    keep: Keep = "artifact"

    def __post_init__(self) -> None:
        # Families of models are opened where they are needed: they are not sent.
        object.__setattr__(self, "request", replace(self.request, known=None))

    def in_precision(self, dtype: torch.dtype) -> Share:
        """The same, computed in `dtype`."""
        return replace(self, request=replace(self.request, dtype=dtype))

    def work(self, device: torch.device, number: int, reports: Watcher) -> None:
        """Plan the command's cells and take those that nobody holds, until all are done."""
        execution, cells = self.execution(device, reports)
        execution.run(cells)

    def execution(
        self, device: torch.device, reports: Watcher
    ) -> tuple[Execution, list[PlannedCell]]:
        """A worker of the queue, and its cells."""
        manager = build_plugin_manager(self.plugin_files)
        request = replace(self.request, device=device, known=families(manager))
        arms, cells, _ = request.plan(registered_attacks(manager), self.drawing)
        execution = Execution(
            arms,
            request.root,
            _CellReports(reports),
            judge=make_judge(metrics(manager)),
            rerun=self.rerun,
            checkpoint_every=self.checkpoint_every,
            attacks=attacks(manager),
            cell_timeout=self.cell_timeout,
            events=self.events,
            keep=self.keep,
            before=self.before,
            helped=True,
        )
        return execution, cells


class _CellReports:
    """The `Observer` of a worker.

    Plans and outcomes stay here: the process that is helped finds them in the cells' folders.
    """

    def __init__(self, reports: Watcher) -> None:
        self._reports = reports
        self.stage, self.advance = reports.stage, reports.advance

    def planned(self, cells: Sequence[PlannedCell]) -> None:
        """It is the same plan."""

    def begin(self, planned: PlannedCell) -> None:
        self._reports.takes(planned.title)

    def end(self, outcome: Outcome) -> None:
        self._reports.leaves()

    def said(self, sentence: str) -> None:
        if sentence != NOTICE:  # whoever stops it knows
            self._reports.said(sentence)
