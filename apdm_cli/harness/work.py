"""The work of one cell: an attack on one model, and the manifest that records it."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.errors import ApdmError
from apdm_cli.extension.attack import Artifact, Attack
from apdm_cli.extension.containment import contained
from apdm_cli.harness.arms import Arms
from apdm_cli.harness.cell_photos import CellPhotos
from apdm_cli.harness.guard import require_finite_files
from apdm_cli.harness.keeping import Keep, as_difference, draw_and_drop
from apdm_cli.harness.plan import PlannedCell, cell_manifest
from apdm_cli.harness.repeating import control_of, copy_result, is_whole
from apdm_cli.harness.stops import SAVED, STOPS, stop_folder
from apdm_cli.harness.workbench import LOSSES, Judge, Workbench
from apdm_cli.progress import Progress, Silent
from apdm_cli.runs.clock import Clock
from apdm_cli.runs.interrupts import StopSignals
from apdm_cli.runs.jsonl import read_rows, truncate_log
from apdm_cli.runs.manifest import MANIFEST, now, read_manifest, versions, write_json_atomic

CACHE = "_cache"


def run_attack(attack: Attack, bench: Workbench, config: Any) -> Artifact:
    """Run `attack`; torch's global CPU generator starts from the cell's seed and is put back.

    Libraries draw from it when they initialize new layers, and so do plugins.
    """
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(bench.streams.generator("attack/global").get_state())
        return attack.run(bench, config)


@dataclass
class CellWork:
    """What the cells of one command share.

    Attributes:
        arms: the models.
        root: of all runs; class pictures are cached below it.
        judge: the similarity that attackers may use; see `Workbench`.
        attacks: those that an attack may be made of, by name; None is every installed one.
        checkpoint_every: steps between checkpoints; 0 is once a minute.
        cell_timeout: seconds that one cell may take; 0 is any time.
        events: whether TensorBoard's event files are written beside the losses.
        keep: how much of an attacked model stays in its cell.
    """

    arms: Arms
    root: Path
    judge: Judge | None = None
    attacks: Mapping[str, Attack] | None = None
    checkpoint_every: int = 0
    progress: Progress = field(default_factory=Silent)
    signals: StopSignals = field(default_factory=StopSignals)
    cell_timeout: float = 0.0
    events: bool = False
    keep: Keep = "artifact"
    _last: dict[str, CellPhotos] = field(default_factory=dict, init=False)

    def do(self, planned: PlannedCell, folder: Path) -> dict[str, Any]:
        """Attack in `folder`, which an interrupted try may have left; returns the manifest.

        Budgets that an earlier result of the cell had are kept: a cell never loses one.
        """
        clock = Clock()
        budgets = tuple(sorted({*planned.job.budgets, *planned.found_budgets()}))
        same = control_of(replace(planned, job=replace(planned.job, budgets=budgets)), self.root)
        if same is not None and is_whole(same):
            return self._repeated(planned, same, folder, clock)
        bench = self._bench(planned, folder, budgets, clock)
        who = _who(planned)
        with contained(who, self.cell_timeout):
            artifact = run_attack(planned.job.attack.item, bench, planned.job.scaled_config())
        self.arms.require_unchanged(who)
        _check_artifact(artifact, folder)
        require_finite_files(artifact.path)
        truncate_log(folder / LOSSES, bench.steps_taken)  # of a try with longer budgets
        kept = self._kept(artifact, bench)
        stops = _stops(planned, bench, whole=kept is not None)
        manifest = {
            **cell_manifest(planned, self.arms),
            "status": "done",
            "created": now(),
            "prompt_word": bench.prompt_word,
            "artifact": {"kind": kept.kind, "path": kept.path.relative_to(folder).as_posix()}
            if kept
            else None,
            "stops": stops,
            "drawing": planned.drawing.describe(bench.base)
            if planned.drawing and (stops[1:] or not kept)
            else None,
            "duration_seconds": round(clock.seconds, 3),
            "pace": bench.pace.as_record(),
            "versions": versions(),
            "device": str(self.arms.device),
            "dtype": str(self.arms.dtype).removeprefix("torch."),
            "summary": {
                "final_loss": _mean_of_last([row["loss"] for row in read_rows(folder / LOSSES)]),
                "steps": bench.steps_taken,
                **bench.results,
            },
            "error": None,
        }
        write_json_atomic(folder / MANIFEST, manifest)
        _tidy(folder, stops)
        return manifest

    def _repeated(
        self, planned: PlannedCell, control: PlannedCell, folder: Path, clock: Clock
    ) -> dict[str, Any]:
        """The result of `control`, which is the same attack, as that of `planned`."""
        copy_result(control, folder)
        manifest = {
            **read_manifest(control.cell.path),
            **cell_manifest(planned, self.arms),
            "created": now(),
            "duration_seconds": round(clock.seconds, 3),
        }
        write_json_atomic(folder / MANIFEST, manifest)
        _tidy(folder, manifest["stops"])
        return manifest

    def _photos(self, planned: PlannedCell, base: DiffusionModel) -> CellPhotos:
        """Whom the attack learns, and the latents of the photos.

        The next cell of the model mostly needs the same again. An attack may do with them what it
        likes: it gets copies.
        """
        key = CellPhotos.key_of(planned.job)
        kept = self._last.get(planned.arm)
        if kept is None or kept.key != key:
            kept = self._last[planned.arm] = CellPhotos.of(planned.job, base)
        return kept.copy()

    def _kept(self, artifact: Artifact, bench: Workbench) -> Artifact | None:
        """What stays of the artifact; None where it gave way to pictures."""
        if self.keep == "pictures" and bench.drawing is not None:
            draw_and_drop(artifact, bench, self.attacks)
            return None
        return as_difference(artifact, bench.base) if self.keep == "difference" else artifact

    def _bench(
        self, planned: PlannedCell, folder: Path, budgets: tuple[float, ...], clock: Clock
    ) -> Workbench:
        job = planned.job
        base = self.arms.load(planned.arm)
        photos = self._photos(planned, base)
        has_original = self.arms.has_original
        return Workbench(
            base,
            photos.subject,
            job.seed,
            folder,
            self.root / CACHE,
            load_original=lambda: self.arms.load("original") if has_original else None,
            judge=self.judge,
            attacks=self.attacks,
            progress=self.progress,
            signals=self.signals,
            checkpoint_every=self.checkpoint_every,
            budgets=budgets,
            drawing=planned.drawing,
            verify=lambda: self.arms.require_unchanged(_who(planned)),
            events=self.events,
            clock=clock,
            latents=photos.latents,
        )


def _who(planned: PlannedCell) -> str:
    return f"the attack {planned.job.name}"


def _stops(planned: PlannedCell, bench: Workbench, *, whole: bool) -> list[dict[str, Any]]:
    """For the manifest: every budget, the steps it took, and where its pictures lie.

    Args:
        whole: the artifact of the longest budget stays, and no pictures of it are listed.
    """
    *early, last = bench.budgets
    missing = [budget for budget in early if budget not in bench.stopped]
    if missing:
        raise ApdmError(
            f"the attack never came past the budget {missing[0]:g}",
            "Its `continues` promises one training for all budgets: its `run` must train to "
            "`bench.stops(...)`.",
        )
    steps = {**bench.stopped, last: bench.steps_taken}
    return [
        {
            "budget": budget * planned.job.scale,
            "steps": steps[budget],
            "pictures": stop_folder(Path(), budget).as_posix()
            if bench.drawing is not None and (budget != last or not whole)
            else None,
        }
        for budget in bench.budgets
    ]


def _tidy(folder: Path, stops: Sequence[Mapping[str, Any]]) -> None:
    """Remove what served to come here: checkpoints, and stops of a try with other budgets."""
    for name in ("checkpoints", SAVED):
        shutil.rmtree(folder / name, ignore_errors=True)
    listed = {stop["pictures"] for stop in stops}
    if (folder / STOPS).is_dir():
        for path in (folder / STOPS).iterdir():
            if path.relative_to(folder).as_posix() not in listed:
                shutil.rmtree(path)


def _check_artifact(artifact: Artifact, folder: Path) -> None:
    if not isinstance(artifact, Artifact):
        raise ApdmError(f"the attack returned a {type(artifact).__name__}, not an Artifact")
    if folder.resolve() not in artifact.path.resolve().parents:
        raise ApdmError(
            f"the attack's artifact {artifact.path} is not in its own folder",
            "`save` must write into the folder it is given.",
        )
    if not artifact.path.is_dir() or not any(artifact.path.rglob("*.safetensors")):
        raise ApdmError(
            f"the attack left no artifact in {artifact.path}",
            "An artifact has weights, as .safetensors.",
        )


def _mean_of_last(losses: Sequence[float], share: float = 0.2) -> float:
    """Mean of the last part of a loss curve, NaN for an empty one."""
    kept = list(losses)[-max(1, round(len(losses) * share)) :]
    return sum(kept) / len(kept) if kept else math.nan
