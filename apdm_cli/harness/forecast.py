"""What an `apdm attack` would do and how long it would take, without doing any of it.

Times come from attacks that have finished, on the same device; where none has, nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from apdm_cli.errors import ApdmError
from apdm_cli.extension.containment import asked
from apdm_cli.harness.arms import Arms
from apdm_cli.harness.pace import Pace
from apdm_cli.harness.plan import CONTROL, PlannedCell
from apdm_cli.harness.repeating import control_of
from apdm_cli.runs.cells import CellState, finished_cells
from apdm_cli.runs.disk import is_held
from apdm_cli.runs.manifest import MANIFEST, read_record
from apdm_cli.runs.places import attack_folders
from apdm_cli.runs.records import CellManifest

State = Literal["finished", "interrupted", "failed", "running", "new"]
# Settings that the time of a step depends on, for every attack.
_PACE_SETTINGS = ("batch_size", "accumulation", "optimizer")


@dataclass(frozen=True)
class CellForecast:
    """One cell, and what it asks for.

    Attributes:
        state: of the cell now; "running" is held by another process.
        runs: whether it would be run, from its beginning or from a checkpoint.
        steps: optimizer steps at most; 0 where it does not run, or repeats its control.
        pictures: drawn on the way; 0 where it does not run.
        class_pictures: which it is trained with, where it has prior preservation: they are drawn
            once for a model and a seed, whatever the attack.
        seconds: at the pace of finished cells like it; None where there is none.
    """

    planned: PlannedCell
    state: State
    runs: bool
    steps: int
    pictures: int
    class_pictures: int
    seconds: float | None

    @property
    def shared(self) -> bool:
        """Whether it is a control, which serves every run on this original."""
        return self.planned.arm == "original"

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        job = self.planned.job
        return {
            "cell": self.planned.cell.key,
            **({"subject": self.planned.whom} if self.planned.whom else {}),
            "attack": job.name,
            "variant": job.variant,
            "crop": job.subject.crop,
            "configuration": job.scaled_config().model_dump(mode="json"),
            "arm": self.planned.arm,
            "shared": self.shared,
            "seed": job.seed,
            "budgets": [budget * job.scale for budget in job.budgets],
            "state": self.state,
            "runs": self.runs,
            "steps": self.steps,
            "pictures": self.pictures,
            "class_pictures": self.class_pictures,
            "estimated_seconds": self.seconds,
        }


def forecast(
    cells: Sequence[PlannedCell], arms: Arms, root: Path, *, rerun: bool = False
) -> list[CellForecast]:
    """What would become of every cell of `cells`, in their order.

    Args:
        rerun: finished cells would be run again.

    Raises:
        ApdmError: a cell that cannot be read, or an attack that cannot say how long it is.
    """
    measured = list(_measured(arms, root))
    return [_one(planned, arms, root, measured, rerun) for planned in cells]


def _one(
    planned: PlannedCell,
    arms: Arms,
    root: Path,
    measured: Sequence[Mapping[str, Any]],
    rerun: bool,
) -> CellForecast:
    state = _state(planned)
    runs = rerun or not planned.finished
    if not runs:
        return CellForecast(planned, state, False, 0, 0, 0, None)
    if control_of(planned, root) is not None:  # copied, once that is there
        return CellForecast(planned, state, True, 0, 0, 0, 0.0)
    steps, pictures = _work(planned)
    config = planned.job.scaled_config()
    pace = sum((Pace.of(cell) for cell in measured if _alike(planned, arms, cell)), Pace())
    return CellForecast(
        planned,
        state,
        runs,
        steps,
        pictures,
        config.prior_pictures if config.prior_weight > 0 else 0,
        pace.seconds(steps, pictures),
    )


def _state(planned: PlannedCell) -> State:
    if is_held(planned.cell.partial):
        return "running"
    found = planned.cell.state
    if found is CellState.FINISHED:  # perhaps not at every budget that is wanted now
        return "finished"
    words: dict[CellState, State] = {
        CellState.FAILED: "failed",
        CellState.PARTIAL: "interrupted",
    }
    return words.get(found, "new")


def _work(planned: PlannedCell) -> tuple[int, int]:
    """Optimizer steps, and pictures on the way; budgets that the cell had already come again."""
    job, config = planned.job, planned.job.scaled_config()
    budgets = {*job.budgets, *planned.found_budgets()}
    with asked(f"the attack {job.name}"):
        once = job.attack.item.total_steps(config)
    longest = max(budgets)
    steps = once if longest == 1 else max(1, round(longest * once))
    early = len(budgets) - 1
    return steps, early * len(planned.drawing.templates) if planned.drawing else 0


def _measured(arms: Arms, root: Path) -> Iterator[dict[str, Any]]:
    """The manifests of finished attacks on both models."""
    digest = arms.ref("original").digest if arms.has_original else None
    for folder in (
        cell for cells in attack_folders(arms.run.path) for cell in finished_cells(cells)
    ):
        yield from _manifest(folder)
    for folder in finished_cells(root / CONTROL):
        for manifest in _manifest(folder):
            if (manifest.get("model") or {}).get("digest") == digest:
                yield manifest


def _manifest(folder: Path) -> Iterator[dict[str, Any]]:
    try:
        yield read_record(folder / MANIFEST, CellManifest)
    except ApdmError:  # damaged: it says nothing about time
        return


def _alike(planned: PlannedCell, arms: Arms, cell: Mapping[str, Any]) -> bool:
    """Whether a step of the finished `cell` takes as long as one of `planned`."""
    before, now = cell.get("configuration") or {}, planned.job.config.model_dump(mode="json")
    return (
        cell.get("attack") == planned.job.name
        and cell.get("device") == str(arms.device)
        and cell.get("dtype") == str(arms.dtype).removeprefix("torch.")
        and all(before.get(name) == now[name] for name in _PACE_SETTINGS)
        and bool(before.get("prior_weight")) == bool(now["prior_weight"])
    )
