"""Run the planned cells, one after another; a failing one costs only itself."""

from __future__ import annotations

import math
import shutil
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from apdm_cli.diffusion.photos import load_photos
from apdm_cli.errors import ApdmError
from apdm_cli.extension.attack import Artifact, Attack
from apdm_cli.harness.arms import Arms
from apdm_cli.harness.plan import PlannedCell, cell_manifest
from apdm_cli.harness.transforms import apply_transforms
from apdm_cli.harness.watching import Watcher
from apdm_cli.harness.workbench import LOSSES, Judge, Workbench
from apdm_cli.randomness import Streams
from apdm_cli.runs.interrupts import Stopped, StopSignals
from apdm_cli.runs.jsonl import read_rows
from apdm_cli.runs.manifest import MANIFEST, now, read_manifest, versions, write_json_atomic
from apdm_cli.subject import Subject

CACHE = "_cache"


@dataclass(frozen=True)
class Outcome:
    """What became of one cell: done now, cached from before, or failed with an error."""

    planned: PlannedCell
    status: Literal["done", "cached", "failed"]
    manifest: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    hint: str = ""


class Observer(Watcher, Protocol):
    """Sees a whole `apdm attack`."""

    def planned(self, cells: Sequence[PlannedCell]) -> None:
        """The cells that will be looked at, in this order."""

    def begin(self, planned: PlannedCell) -> None:
        """A cell that is not cached begins."""

    def end(self, outcome: Outcome) -> None:
        """A cell ended, or was found finished."""


@dataclass
class Execution:
    """Runs cells.

    Attributes:
        arms: the models.
        root: of all runs; class pictures are cached below it.
        judge: the similarity that attackers may use; see `Workbench`.
        rerun: run finished cells again.
        checkpoint_every: steps between checkpoints; 0 is once a minute.
    """

    arms: Arms
    root: Path
    observer: Observer
    judge: Judge | None = None
    rerun: bool = False
    checkpoint_every: int = 0

    def run(self, cells: Sequence[PlannedCell]) -> list[Outcome]:
        """Run `cells`; returns their outcomes in the same order.

        Raises:
            Stopped: a signal arrived. The cell that was running can be resumed.
        """
        self.observer.planned(cells)
        outcomes = []
        with StopSignals() as signals:
            for planned in cells:
                outcome = self._one(planned, signals)
                self.observer.end(outcome)
                outcomes.append(outcome)
        return outcomes

    def _one(self, planned: PlannedCell, signals: StopSignals) -> Outcome:
        if planned.finished and not self.rerun:
            return Outcome(planned, "cached", read_manifest(planned.cell.path))
        self.observer.begin(planned)
        try:
            with planned.cell.writing(fresh=self.rerun) as folder:
                manifest = self._attack(planned, folder, signals)
        except _LeavePartial as leaving:
            raise leaving.reason from None
        except ApdmError as error:
            return Outcome(planned, "failed", error=error.what, hint=error.hint)
        except Exception as error:
            # An attack is anybody's code: whatever it raises costs its own cell only.
            _write_traceback(planned, error)
            text = f"{type(error).__name__}: {error}"
            hint = f"The traceback is in {planned.cell.partial / 'traceback.txt'}"
            return Outcome(planned, "failed", error=text, hint=hint)
        return Outcome(planned, "done", manifest)

    def _attack(self, planned: PlannedCell, folder: Path, signals: StopSignals) -> dict[str, Any]:
        started, job = time.monotonic(), planned.job
        try:
            bench = self._bench(planned, folder, signals)
            artifact = run_attack(job.attack.item, bench, job.config)
        except Stopped as stopped:
            raise _LeavePartial(stopped) from None
        _check_artifact(artifact, folder)
        losses = [row["loss"] for row in read_rows(folder / LOSSES)]
        manifest = {
            **cell_manifest(planned, self.arms),
            "status": "done",
            "created": now(),
            "prompt_word": bench.prompt_word,
            "artifact": {
                "kind": artifact.kind,
                "path": artifact.path.relative_to(folder).as_posix(),
            },
            "duration_seconds": round(time.monotonic() - started, 3),
            "versions": versions(),
            "device": str(self.arms.device),
            "dtype": str(self.arms.dtype).removeprefix("torch."),
            "summary": {
                "final_loss": _mean_of_last(losses),
                "steps": bench.steps_taken,
                **bench.results,
            },
            "error": None,
        }
        write_json_atomic(folder / MANIFEST, manifest)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        return manifest

    def _bench(self, planned: PlannedCell, folder: Path, signals: StopSignals) -> Workbench:
        job = planned.job
        base = self.arms.load(planned.arm)
        photos = load_photos(job.photos.sources, base.resolution)
        pixels = apply_transforms(photos.pixels, job.transforms, Streams(job.seed))
        words = job.words
        subject = Subject(
            words.name, words.class_noun, words.identifier, replace(photos, pixels=pixels)
        )
        has_original = self.arms.has_original
        return Workbench(
            base,
            subject,
            job.seed,
            folder,
            self.root / CACHE,
            load_original=lambda: self.arms.load("original") if has_original else None,
            judge=self.judge,
            watcher=self.observer,
            signals=signals,
            checkpoint_every=self.checkpoint_every,
        )


def run_attack(attack: Attack, bench: Workbench, config: Any) -> Artifact:
    """Run `attack`; torch's global CPU generator starts from the cell's seed and is put back.

    Libraries draw from it when they initialize new layers, and so do plugins.
    """
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(bench.streams.generator("attack/global").get_state())
        return attack.run(bench, config)


class _LeavePartial(BaseException):
    """Carries `Stopped` past the cell's own handling: the cell did not fail, it goes on later."""

    def __init__(self, reason: Stopped) -> None:
        super().__init__(str(reason))
        self.reason = reason


def _check_artifact(artifact: Artifact, folder: Path) -> None:
    if not isinstance(artifact, Artifact):
        raise ApdmError(f"the attack returned a {type(artifact).__name__}, not an Artifact")
    if folder not in artifact.path.parents:
        raise ApdmError(
            f"the attack's artifact {artifact.path} is not in its own folder",
            "`save` must write into the folder it is given.",
        )
    if not artifact.path.is_dir() or not any(artifact.path.iterdir()):
        raise ApdmError(f"the attack left no artifact in {artifact.path}")


def _write_traceback(planned: PlannedCell, error: Exception) -> None:
    text = "".join(traceback.format_exception(error))
    (planned.cell.partial / "traceback.txt").write_text(text, encoding="utf-8")


def _mean_of_last(losses: Sequence[float], share: float = 0.2) -> float:
    """Mean of the last part of a loss curve, NaN for an empty one."""
    kept = list(losses)[-max(1, round(len(losses) * share)) :]
    return sum(kept) / len(kept) if kept else math.nan
