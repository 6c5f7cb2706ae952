"""Evaluated runs: their scores, and which may stand side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apdm_cli.errors import ApdmError
from apdm_cli.runs.cells import failed_cells, finished_cells
from apdm_cli.runs.manifest import read_manifest
from apdm_cli.runs.run import Run
from apdm_cli.scores import SCORES, Backend, Score, ScoreRow, ScoresFile

CONTROL = "_control"


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

    def cell_folder(self, row: ScoreRow) -> Path:
        """Where an attack's results lie: the control arm is shared by the runs of one root."""
        if row.arm == "original":
            shared = self.run.path.parent / CONTROL / str(row.cell)
            if shared.is_dir():
                return shared
        return self.run.attacks / str(row.cell)

    def cell_manifest(self, row: ScoreRow) -> dict[str, Any]:
        """The manifest of a row's attack cell; empty when the cell was removed since."""
        try:
            return read_manifest(self.cell_folder(row))
        except ApdmError:
            return {}


def are_subjects(runs: Sequence[EvaluatedRun]) -> bool:
    """Whether `runs` are several subjects of one run."""
    return len(runs) > 1 and len({run.run.path.resolve() for run in runs}) == 1


def open_runs(root: Path, names: Sequence[str], subject: str | None = None) -> list[EvaluatedRun]:
    """The named runs, or the one evaluated last. Raises `ApdmError` where scores are missing.

    A run that protects several subjects comes once for each.

    Args:
        subject: only the subject of that name.
    """
    runs = [Run.open(root, name) for name in names] or [_evaluated_last(root)]
    opened: dict[Path, EvaluatedRun] = {}
    for run in runs:
        for view in run.each if subject is None else [run.of_subject(subject)]:
            opened.setdefault(view.address.resolve(), read_run(view))
    return list(opened.values())


def _evaluated_last(root: Path) -> Run:
    times = {
        run: max(file.stat().st_mtime_ns for file in files)
        for run in Run.all(root)
        if (files := [file for view in run.each if (file := _scores_file(view)).is_file()])
    }
    if not times:
        newest = Run.newest_finished(root)  # says what to do when there is no run at all
        raise _not_evaluated(newest)
    return max(times, key=lambda run: times[run])


def read_run(run: Run) -> EvaluatedRun:
    """The scores of `run`. Raises `ApdmError` when there are none, or none that can be read."""
    file = _scores_file(run)
    if not file.is_file():
        raise _not_evaluated(run)
    scores = ScoresFile.read(file, run.name)
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


def _scores_file(run: Run) -> Path:
    return run.evaluation / SCORES


def _not_evaluated(run: Run) -> ApdmError:
    return ApdmError(f"Run {run.name} has no scores yet", f"Run: apdm evaluate {run.name}")


def check_comparable(runs: Sequence[EvaluatedRun]) -> None:
    """Raise `ApdmError` where one metric was computed by two extractors, or on unequal numbers.

    Pictures that could be scored in one arm only (constant, NaN) are no reason to refuse a mean
    over pictures: the number asked for counts. A distance between sets needs equal numbers.
    """
    _check_backends(runs)
    _check_counts(runs)


def unequal_settings(runs: Sequence[EvaluatedRun]) -> list[str]:
    """Sentences about what differs between runs and is no error, subjects first."""
    said = []
    subjects = [run.run.manifest.get("subject") or {} for run in runs]
    names = [str(subject.get("name", "?")) for subject in subjects]
    photos = [_digests(subject) or (name,) for subject, name in zip(subjects, names, strict=True)]
    # A subject is mostly named after its run: of the same photos two runs show the same person.
    if not are_subjects(runs) and len(set(photos)) > 1:
        pairs = ", ".join(f"{run.name}: {name}" for run, name in zip(runs, names, strict=True))
        what = "different subjects" if len(set(names)) > 1 else "different photos of one subject"
        said.append(
            f"These runs protect {what} ({pairs}): their scores differ for that reason too."
        )
    for what, values in (
        ("original models", [(run.run.manifest.get("model") or {}).get("digest") for run in runs]),
        ("samplers", [run.scores.sampler for run in runs]),
        ("prompt sets", [run.scores.prompts for run in runs]),
    ):
        if any(value != values[0] for value in values):
            said.append(f"These runs were evaluated with different {what}.")
    return said


def _check_backends(runs: Sequence[EvaluatedRun]) -> None:
    first: dict[str, tuple[str, Score]] = {}
    for where, run, row, score in _scores(runs):
        seen_where, seen = first.setdefault(score.metric, (f"{where}{row.where}", score))
        if (seen.backend.name, seen.backend.digest) != (score.backend.name, score.backend.digest):
            raise ApdmError(
                f"{score.metric} was computed by two backends: {_backend(seen.backend)} "
                f"({seen_where}) and {_backend(score.backend)} ({where}{row.where}). Such scores "
                "are never compared",
                "Score every run again with the same weights: apdm evaluate "
                f"{run.name} --weights {score.metric}=PATH",
            )


def _check_counts(runs: Sequence[EvaluatedRun]) -> None:
    first: dict[tuple[str, str, str], tuple[str, int, str]] = {}
    for where, run, row, score in _scores(runs):
        if row.role in ("floor", "ceiling"):
            continue  # levels that the attacks' scores are shown against
        # A distance between sets depends on how many entered, so a skipped one makes arms unequal.
        distance = run.scores.meaning(score.metric).kind == "distance"
        count = score.n + (0 if distance else score.skipped)
        place = f"{where}{row.where}"
        key = (row.role, row.topic, score.metric)
        seen_place, seen, other = first.setdefault(key, (place, count, run.name))
        if seen != count:
            fewer = run.name if count < seen else other
            option = "--class-images" if row.role == "utility" else "--images"
            number = max(count, seen) if run.name != other else "N"
            raise ApdmError(
                f"{score.metric} was computed on {seen} pictures ({seen_place}) and on {count} "
                f"({place}). Scores of different numbers of pictures are never compared",
                f"Score again with one number of pictures: apdm evaluate {fewer} {option} {number}",
            )


def _scores(
    runs: Sequence[EvaluatedRun],
) -> Iterator[tuple[str, EvaluatedRun, ScoreRow, Score]]:
    for run in runs:
        where = f"{run.name}: " if len(runs) > 1 else ""
        for row in run.scores.rows:
            for score in row.scores:
                yield where, run, row, score


def _backend(backend: Backend) -> str:
    return f"{backend.name} {backend.digest[:12]}"


def _digests(subject: Mapping[str, Any]) -> tuple[str, ...]:
    files = (subject.get("photos") or {}).get("files") or []
    return tuple(sorted(str(file.get("sha256")) for file in files))
