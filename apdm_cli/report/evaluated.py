"""Evaluated runs: their scores, and which may stand side by side."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from apdm_cli.errors import ApdmError
from apdm_cli.report.command_words import evaluate_again, typed
from apdm_cli.runs.cells import failed_cells, finished_cells
from apdm_cli.runs.manifest import read_manifest
from apdm_cli.runs.precision import spelled
from apdm_cli.runs.run import Run
from apdm_cli.scores import SCORES, Backend, Score, ScoreRow, ScoresFile

CONTROL = "_control"
_Counted = tuple[str, str, str]  # role, topic and metric


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
    scores = ScoresFile.read(file, typed("evaluate", run))
    if not any(row.scores for row in scores.rows if row.role == "attack"):
        raise ApdmError(
            f"Run {run.name} has no scored attack: there is nothing to compare",
            f"Attack it, then score it: {typed('attack', run, '--plugin', 'dreambooth')}; "
            f"{evaluate_again(run, scores)}",
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
    return ApdmError(f"Run {run.name} has no scores yet", f"Run: {evaluate_again(run, None)}")


def comparable(runs: Sequence[EvaluatedRun]) -> tuple[list[EvaluatedRun], list[str]]:
    """`runs` as they may stand side by side, and sentences about what is left out for that.

    Pictures that could be scored in one arm only (constant, NaN) are no reason to refuse a mean
    over pictures: the number asked for counts. A distance between sets needs equal numbers, and is
    left out where some of its pictures could not be used.

    Raises:
        ApdmError: one metric was computed by two extractors, or asked for on unequal numbers.
    """
    _check_backends(runs)
    _check_counts(runs)
    unequal = _unequal_distances(runs)
    if not unequal:
        return list(runs), []
    return [_without(run, unequal) for run in runs], list(unequal.values())


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
    dtypes = {run.name: spelled(run.scores.dtype) for run in runs if run.scores.dtype}
    if len(set(dtypes.values())) > 1:
        pairs = ", ".join(f"{name}: {dtype}" for name, dtype in dtypes.items())
        said.append(f"These runs were evaluated in different precisions ({pairs}).")
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
                "Score every run again with the same weights: "
                + evaluate_again(run.run, run.scores, **_weights(run.scores, score, seen)),
            )


def _weights(scores: ScoresFile, one: Score, other: Score) -> dict[str, Any]:
    """What to ask so that both have one backend; nothing for a metric that reads none."""
    from apdm_cli.extension.manager import build_plugin_manager, metrics

    metric = metrics(build_plugin_manager()).get(one.metric)
    names = metric.weight_names if metric is not None else ()
    shared = [name for name in names if one.backend.name == other.backend.name == name]
    if not names:
        return {}
    return {"weights": {**(scores.asked.get("weights") or {}), (shared or names)[0]: "PATH"}}


def _check_counts(runs: Sequence[EvaluatedRun]) -> None:
    first: dict[_Counted, tuple[str, int, EvaluatedRun]] = {}
    for where, run, row, score in _counted(runs):
        count = score.n + score.skipped
        place = f"{where}{row.where}"
        key = (row.role, row.topic, score.metric)
        seen_place, seen, other = first.setdefault(key, (place, count, run))
        if seen != count:
            fewer = run if count < seen else other
            option = "class_images" if row.role == "utility" else "images"
            number = str(max(count, seen)) if run.run is not other.run else "N"
            raise ApdmError(
                f"{score.metric} was computed on {seen} pictures ({seen_place}) and on {count} "
                f"({place}). Scores of different numbers of pictures are never compared",
                "Score again with one number of pictures: "
                + evaluate_again(fewer.run, fewer.scores, **{option: number}),
            )


def _unequal_distances(runs: Sequence[EvaluatedRun]) -> dict[_Counted, str]:
    """Distances that rest on unequal numbers of pictures, and a sentence about each."""
    first: dict[_Counted, tuple[str, int]] = {}
    unequal: dict[_Counted, str] = {}
    for where, run, row, score in _counted(runs):
        key, place = (row.role, row.topic, score.metric), f"{where}{row.where}"
        if run.scores.meaning(score.metric).kind != "distance":
            continue
        seen_place, seen = first.setdefault(key, (place, score.n))
        if seen != score.n:
            what = row.topic or f"the {row.role}s"
            unequal[key] = (
                f"{score.metric} of {what} is left out: {seen} pictures could be used "
                f"({seen_place}) and {score.n} ({place}), and a distance depends on their number"
            )
    return unequal


def _without(run: EvaluatedRun, unequal: Collection[_Counted]) -> EvaluatedRun:
    rows = tuple(
        row.model_copy(
            update={
                "scores": tuple(
                    score
                    for score in row.scores
                    if (row.role, row.topic, score.metric) not in unequal
                )
            }
        )
        for row in run.scores.rows
    )
    return replace(run, scores=run.scores.model_copy(update={"rows": rows}))


def _counted(
    runs: Sequence[EvaluatedRun],
) -> Iterator[tuple[str, EvaluatedRun, ScoreRow, Score]]:
    """Values whose numbers of pictures matter; attacks are only shown against floor and ceiling."""
    for where, run, row, score in _scores(runs):
        if row.role not in ("floor", "ceiling") and score.has_value:
            yield where, run, row, score


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
