"""Which scores may stand side by side: those of one extractor and one number of pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from apdm_cli.errors import ApdmError
from apdm_cli.report.scores import EvaluatedRun, ScoreRead, ScoreRow

# They depend on the number of pictures, so a skipped one makes the arms unequal too.
_DISTANCES = ("fid", "kid")


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
    photos = [_digests(subject) for subject in subjects]
    if len(set(names)) > 1 or len(set(photos)) > 1:
        pairs = ", ".join(f"{run.name}: {name}" for run, name in zip(runs, names, strict=True))
        what = "different subjects" if len(set(names)) > 1 else "different photos of one subject"
        said.append(f"These runs protect {what} ({pairs}): their scores differ for that reason too")
    for what, values in (
        ("original models", [(run.run.manifest.get("model") or {}).get("digest") for run in runs]),
        ("samplers", [run.scores.sampler for run in runs]),
        ("prompt sets", [run.scores.prompts for run in runs]),
    ):
        if any(value != values[0] for value in values):
            said.append(f"These runs were evaluated with different {what}")
    return said


def _check_backends(runs: Sequence[EvaluatedRun]) -> None:
    first: dict[str, tuple[str, ScoreRead]] = {}
    for where, _, row, score in _scores(runs):
        seen_where, seen = first.setdefault(score.metric, (f"{where}{row.where}", score))
        if (seen.backend.name, seen.backend.digest) != (score.backend.name, score.backend.digest):
            raise ApdmError(
                f"{score.metric} was computed by two backends: {_backend(seen)} ({seen_where}) "
                f"and {_backend(score)} ({where}{row.where}). Such scores are never compared",
                "Score the runs again with the same weights: apdm evaluate RUN",
            )


def _check_counts(runs: Sequence[EvaluatedRun]) -> None:
    first: dict[tuple[str, str, str], tuple[str, int]] = {}
    for where, run, row, score in _scores(runs):
        if row.role in ("floor", "ceiling"):
            continue  # levels that the attacks' scores are shown against
        topic = row.label.partition(",")[0] if row.role in ("utility", "neighbour") else ""
        count = score.n + (0 if _is_distance(score.metric) else score.skipped)
        place = f"{where}{row.where}"
        seen_place, seen = first.setdefault((row.role, topic, score.metric), (place, count))
        if seen != count:
            raise ApdmError(
                f"{score.metric} was computed on {seen} pictures ({seen_place}) and on {count} "
                f"({place}). Scores of different numbers of pictures are never compared",
                f"Score again with one number of pictures: apdm evaluate {run.name} --images N",
            )


def _scores(
    runs: Sequence[EvaluatedRun],
) -> Iterator[tuple[str, EvaluatedRun, ScoreRow, ScoreRead]]:
    for run in runs:
        where = f"{run.name}: " if len(runs) > 1 else ""
        for row in run.scores.rows:
            for score in row.scores:
                yield where, run, row, score


def _backend(score: ScoreRead) -> str:
    return f"{score.backend.name} {score.backend.digest[:12]}"


def _is_distance(metric: str) -> bool:
    return metric.startswith(_DISTANCES)


def _digests(subject: dict) -> tuple[str, ...]:
    files = (subject.get("photos") or {}).get("files") or []
    return tuple(sorted(str(file.get("sha256")) for file in files))
