"""Paper against ours: the one place that decides whether a difference may be printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from apdm_cli.pocket.profile import SOURCE as POCKET
from benchmarks.paper.metrics import METRICS
from benchmarks.paper.readings import Reading, as_json
from benchmarks.paper.scale import TINY_NOTE, Scale
from benchmarks.paper.tables import Table

NOT_PUBLISHED = "not published here"
ANOTHER_BACKEND = "another backend"
ANOTHER_MODEL = "another model"


@dataclass(frozen=True)
class Line:
    """One printed line. `difference` is ours − paper, or None, and then `why_none` says why."""

    reading: Reading
    paper: float | None
    difference: float | None
    why_none: str

    def as_json(self) -> dict[str, Any]:
        row = self.reading.row
        return {
            "row": row.label,
            "class": self.reading.noun,
            "column": self.reading.column,
            "paper": self.paper,
            **as_json(self.reading),
            "difference": self.difference,
            "why": self.reading.why or self.why_none or None,
        }


def make_lines(readings: Sequence[Reading], model: str, scale: Scale) -> list[Line]:
    """A line per reading."""
    return [_line(reading, model, scale) for reading in readings]


def _line(reading: Reading, model: str, scale: Scale) -> Line:
    row = reading.row
    published = row.paper.get(reading.noun, {}).get(reading.column)
    why = _why_none(reading, published, model, scale)
    difference = None
    if not why and published is not None and reading.value is not None:
        difference = reading.value - published
    return Line(reading, published, difference, why)


def _why_none(reading: Reading, published: float | None, model: str, scale: Scale) -> str:
    """Why the two numbers cannot be subtracted; empty where they can."""
    if published is None or reading.value is None:
        return "–"
    if not reading.backend.startswith(METRICS[reading.column].backend):
        return ANOTHER_BACKEND
    if reading.column in reading.row.unlike:
        return reading.row.unlike[reading.column]
    if model == POCKET:
        return ANOTHER_MODEL
    return "tiny" if scale == "tiny" else ""


def markdown(table: Table, lines: Sequence[Line], model: str, scale: Scale) -> str:
    """The table for people, and what is to be known about it."""
    out = [f"### {table.title}", "", f"Model: {model}"]
    if scale == "tiny":
        out += ["", f"**{TINY_NOTE}**"]
    heads = ("row", "metric", "paper", "ours", "difference", "n", "subjects")
    out += ["", _cells(heads), _cells(["---"] * len(heads))]
    out += [_cells(_shown(line)) for line in lines]
    reasons = [
        f"{line.reading.noun}, {line.reading.column}: {line.reading.why}"
        for line in lines
        if line.reading.why and line.reading.row.role != "context"
    ]
    notes = [*table.notes, *dict.fromkeys(reasons)]
    return "\n".join([*out, "", *(f"- {note}" for note in notes)]).rstrip() + "\n"


def _shown(line: Line) -> list[str]:
    reading, digits = line.reading, METRICS[line.reading.column].digits
    metric = f"{reading.metric}[{reading.backend}]" if reading.metric else reading.column
    ours = "not run" if reading.row.role == "context" else "not available"
    return [
        f"{reading.noun}: {reading.row.label}",
        metric,
        NOT_PUBLISHED if line.paper is None else f"{line.paper:.{digits}f}",
        ours if reading.value is None else f"{reading.value:.{digits}f}",
        line.why_none if line.difference is None else f"{line.difference:+.{digits}f}",
        str(reading.n) if reading.value is not None else "–",
        ", ".join(reading.subjects) or "–",
    ]


def _cells(texts: Sequence[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in texts) + " |"
