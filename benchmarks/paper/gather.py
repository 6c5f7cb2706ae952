"""Run what every row of a table needs, each thing once, and gather what it left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from apdm_cli.pocket.samples import Sample
from apdm_cli.runs.run import Run
from apdm_cli.scores import ScoreRow, ScoresFile
from benchmarks.paper.door import Attacked, Door
from benchmarks.paper.metrics import METRICS
from benchmarks.paper.tables import Row, Table

CAPTIONS = "captions"  # how `apdm evaluate` names the topic of --captions
Subjects = Mapping[str, Sequence[Sample]]


@dataclass(frozen=True)
class Material:
    """What one subject's run has to say about one row.

    Attributes:
        rows: of scores.json, one a seed.
        unavailable: metric → why it could not be computed.
        errors: attacks and pictures that failed.
    """

    run: str
    rows: tuple[ScoreRow, ...]
    unavailable: Mapping[str, str]
    errors: tuple[str, ...]


def gather(table: Table, subjects: Subjects, door: Door) -> dict[tuple[int, str], list[Material]]:
    """(index of the row, class) → one material a subject. All training comes before all drawing."""
    _check_photos(table, subjects, door)
    attacked = list(_attack_all(table, subjects, door))
    metrics = list(dict.fromkeys(
        name for row in table.row for column in table.metrics_of(row)
        for name in METRICS[column].ours
    ))  # fmt: skip
    scores: dict[str, ScoresFile] = {}
    found: dict[tuple[int, str], list[Material]] = {}
    for index, noun, done in attacked:
        row = table.row[index]
        if done.run not in scores:
            # Captions tell what a protection cost; runs for other subjects share theirs with it.
            left_out = {CAPTIONS} if row.role == "other" else set()
            wanted = {key: v for key, v in table.evaluate.items() if key not in left_out}
            if not any(one.cells for _, _, one in attacked if one.run == done.run):
                wanted["utility_only"] = True
            scores[done.run] = door.evaluate(done.run, wanted, metrics)
        found.setdefault((index, noun), []).append(_material(row, done, scores[done.run]))
    return found


def _check_photos(table: Table, subjects: Subjects, door: Door) -> None:
    """Too few photos for an attack are an error now, not after hours of protection."""
    for row in table.row:
        for noun in table.classes if row.role == "attack" else ():
            for subject in subjects.get(noun, ()):
                door.photos(subject, table.attack[row.attack])


def _attack_all(
    table: Table, subjects: Subjects, door: Door
) -> Iterator[tuple[int, str, Attacked]]:
    """(index of the row, class, what was attacked for it), for every row and subject."""
    known: dict[tuple[str, str, str], Attacked] = {}
    for index, row in enumerate(table.row):
        if row.role == "context":
            continue
        for noun in table.classes_of(row):
            for subject in subjects.get(noun, ()):
                # Another subject is taught to the model that protects the table's first one.
                whose = _protected_first(table, subjects) if row.role == "other" else subject
                run = door.protect(whose, table.protection_of(row))
                key = run.name, subject.name, "" if row.role == "utility" else row.attack
                if key not in known:
                    known[key] = _attack(row, run, subject, table, door)
                yield index, noun, known[key]


def _attack(row: Row, run: Run, subject: Sample, table: Table, door: Door) -> Attacked:
    if row.role == "utility":
        return Attacked(run.name, frozenset())
    options = table.attack[row.attack]
    if row.role == "other":
        return door.attack_other(run, subject, options)
    return door.attack(run, subject, options)


def _protected_first(table: Table, subjects: Subjects) -> Sample:
    return next(subjects[noun][0] for noun in table.classes if noun in subjects)


def _material(row: Row, done: Attacked, scores: ScoresFile) -> Material:
    rows = tuple(one for one in scores.rows if one.arm == row.arm and _is_about(row, done, one))
    missing = {one.metric: one.reason for one in scores.unavailable}
    left_out = tuple(one.reason for one in scores.left_out)
    return Material(done.run, rows, missing, done.errors or left_out)


def _is_about(row: Row, done: Attacked, found: ScoreRow) -> bool:
    if row.role == "utility":
        return found.role == "utility" and found.topic == CAPTIONS
    # A cell says it all: its attack, photos, words, seed, and which model was attacked.
    return (found.arm, found.cell) in done.cells
