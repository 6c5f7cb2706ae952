"""From what the runs left to one number a row, class and metric."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from apdm_cli.errors import ApdmError
from apdm_cli.pocket.samples import Sample
from apdm_cli.scores import Score
from benchmarks.paper.gather import Material, Subjects
from benchmarks.paper.metrics import METRICS
from benchmarks.paper.tables import Row, Table


@dataclass(frozen=True)
class Reading:
    """Our number for one row, class and metric.

    Attributes:
        value: mean over scores (one a subject and seed); None where there is none, `why` says why.
        n: pictures behind it, over all of them.
        metric, backend: what computed it, in apdm's names.
    """

    row: Row
    noun: str
    column: str
    value: float | None = None
    n: int = 0
    metric: str = ""
    backend: str = ""
    subjects: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    why: str = ""


def read_all(
    table: Table, subjects: Subjects, found: Mapping[tuple[int, str], Sequence[Material]]
) -> list[Reading]:
    """Every row, class and metric of `table`, in its order; `found` is `gather`'s."""
    return [
        _read(Reading(row, noun, column), subjects.get(noun, ()), found.get((index, noun), ()))
        for index, row in enumerate(table.row)
        for noun in table.classes_of(row)
        for column in table.metrics_of(row)
    ]


def _read(empty: Reading, subjects: Sequence[Sample], materials: Sequence[Material]) -> Reading:
    ours = METRICS[empty.column].ours
    if empty.row.role == "context":
        return replace(empty, why="another method, not run here")
    if not ours:
        return replace(empty, why="apdm has no such metric")
    if not materials:
        return replace(empty, why=f"no photos of a {empty.noun} were given")
    for metric in ours:
        scored = [
            (subject.name, material.run, score)
            for subject, material in zip(subjects, materials, strict=True)
            for found in material.rows
            for score in found.scores
            if score.metric == metric and score.has_value
        ]
        if scored:
            return _averaged(empty, metric, scored)
    return replace(empty, why=_reason(ours, materials))


def _averaged(empty: Reading, metric: str, scored: Sequence[tuple[str, str, Score]]) -> Reading:
    """The mean over (subject, run, score)."""
    names, runs, scores = zip(*scored, strict=True)
    backends = {score.backend.name for score in scores}
    if len(backends) > 1:
        raise ApdmError(f"{metric} was computed by two backends: {', '.join(sorted(backends))}")
    return replace(
        empty,
        value=statistics.fmean(score.value for score in scores),
        n=sum(score.n for score in scores),
        metric=metric,
        backend=backends.pop(),
        subjects=tuple(dict.fromkeys(names)),
        runs=tuple(dict.fromkeys(runs)),
    )


def _reason(ours: Sequence[str], materials: Sequence[Material]) -> str:
    """Why there is no score although everything ran."""
    for material in materials:
        for metric in ours:
            if metric in material.unavailable:
                return f"{metric} is not available: {material.unavailable[metric]}"
        if material.errors:
            return f"failed: {material.errors[0]}"
    return "every picture was skipped"


def as_json(reading: Reading) -> dict[str, Any]:
    """The measured side of a line, for `--json`."""
    return {
        "ours": reading.value,
        "n": reading.n,
        "metric": reading.metric or None,
        "backend": reading.backend or None,
        "subjects": list(reading.subjects),
        "runs": list(reading.runs),
    }
