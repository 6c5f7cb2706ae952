"""What `apdm evaluate` left in a run, read and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from apdm_cli.errors import ApdmError
from apdm_cli.runs.cells import failed_cells, finished_cells
from apdm_cli.runs.manifest import read_json
from apdm_cli.runs.run import Run

SCORES = "scores.json"
Arm = Literal["original", "protected"]
Role = Literal["attack", "utility", "floor", "ceiling", "neighbour"]


class _Read(BaseModel):
    # A newer `evaluate` may write more than this reads.
    model_config = ConfigDict(extra="ignore", frozen=True)


class Backend(_Read):
    """The extractor behind a score."""

    name: str
    digest: str


class ScoreRead(_Read):
    """One score, as `apdm_cli.extension.metric.Score` has it; `value` is None where it was NaN.

    `label` is how to show the metric where its name alone says too little: `fid[pocket]`.
    """

    metric: str
    label: str = ""
    value: float | None
    n: int = Field(ge=0)
    skipped: int = Field(0, ge=0)
    better: Literal["lower", "higher"]
    backend: Backend
    low: float | None = None
    high: float | None = None


class ScoreRow(_Read):
    """The scores of one folder of pictures."""

    role: Role
    attack: str | None = None
    variant: str = ""
    cell: str | None = None
    arm: Arm
    seed: int = 0
    label: str = ""
    images: str | None = None
    prompts: dict[str, Any] = {}
    scores: tuple[ScoreRead, ...] = ()

    @property
    def where(self) -> str:
        """Readable, for messages: `dreambooth (unseen photos), protected, seed 1`."""
        what = attack_label(self.attack, self.variant) if self.attack else self.label or self.role
        return f"{what}, {self.arm}, seed {self.seed}"


class Unavailable(_Read):
    """A metric that could not be computed, and why."""

    metric: str
    reason: str


class LeftOut(_Read):
    """Pictures that could not be made or scored, and why."""

    cell: str | None = None
    reason: str


class ScoresFile(_Read):
    """evaluation/scores.json."""

    schema_: Literal[1] = Field(alias="schema")
    protected_digest: str | None = None
    sampler: dict[str, Any] = {}
    prompts: dict[str, Any] = {}
    rows: tuple[ScoreRow, ...]
    unavailable: tuple[Unavailable, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


@dataclass(frozen=True)
class EvaluatedRun:
    """A run with its scores.

    Attributes:
        run: its folder and manifest.
        scores: evaluation/scores.json.
        failed: cell -> what went wrong, of attacks that did not finish.
        waiting: finished attack cells that have no scores yet.
    """

    run: Run
    scores: ScoresFile
    failed: dict[str, str]
    waiting: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.run.name

    def pictures(self, row_images: str) -> Path:
        """The folder that a row's `images` names (relative to the run's folder)."""
        below_run = self.run.path / row_images
        return below_run if below_run.is_dir() else self.run.evaluation / row_images


def open_runs(root: Path, names: Sequence[str]) -> list[EvaluatedRun]:
    """The named runs, or the one evaluated last. Raises `ApdmError` where scores are missing."""
    if names:
        opened: dict[Path, EvaluatedRun] = {}
        for name in names:
            run = Run.open(root, name)
            opened.setdefault(run.path.resolve(), read_run(run))
        return list(opened.values())
    evaluated = [run for run in Run.all(root) if _scores_file(run).is_file()]
    if not evaluated:
        newest = Run.newest_finished(root)  # says what to do when there is no run at all
        raise _not_evaluated(newest)
    return [read_run(max(evaluated, key=lambda run: _scores_file(run).stat().st_mtime_ns))]


def read_run(run: Run) -> EvaluatedRun:
    """Read the scores of `run`. Raises `ApdmError` when there are none or they are broken."""
    file = _scores_file(run)
    if not file.is_file():
        raise _not_evaluated(run)
    try:
        scores = ScoresFile.model_validate(read_json(file))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ApdmError(
            f"{file} cannot be used: {where}: {first['msg']}",
            f"Score the run again: apdm evaluate {run.name}",
        ) from error
    if not any(row.scores for row in scores.rows if row.role == "attack"):
        raise ApdmError(
            f"Run {run.name} has no scored attack: there is nothing to compare",
            f"Attack it, then score it: apdm attack {run.name} --plugin dreambooth; "
            f"apdm evaluate {run.name}",
        )
    known = {row.cell for row in scores.rows}
    return EvaluatedRun(
        run,
        scores,
        {key: str(value.get("error", "")) for key, value in failed_cells(run.attacks).items()},
        tuple(cell.name for cell in finished_cells(run.attacks) if cell.name not in known),
    )


def attack_label(attack: str, variant: str) -> str:
    """`dreambooth`, or `dreambooth (unseen photos)`."""
    return f"{attack} ({variant})" if variant else attack


def _scores_file(run: Run) -> Path:
    return run.evaluation / SCORES


def _not_evaluated(run: Run) -> ApdmError:
    return ApdmError(f"Run {run.name} has no scores yet", f"Run: apdm evaluate {run.name}")
