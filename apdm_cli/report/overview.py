"""Several runs side by side: a row of texts for each."""

from __future__ import annotations

from typing import NamedTuple

from apdm_cli.report.schema import Comparison, RunComparison
from apdm_cli.report.verdict import distance_line, followed, primary, smallest
from apdm_cli.report.words import number, percent, with_interval, work_in_words


class OverviewRow(NamedTuple):
    """The texts of one run: subject, work factor, worst case in both arms, cut, class pictures,
    neighbours.
    """

    run: str
    subject: str
    work: str
    original: str
    protected: str
    cut: str
    utility: str
    kept: str


HEADINGS = OverviewRow(
    "run",
    "subject",
    "smallest work factor",
    "worst, original",
    "worst, protected",
    "cut",
    "class pictures",
    "others kept",
)


def overview(comparison: Comparison) -> list[OverviewRow]:
    """One row per run, in the order given."""
    return [_row(run) for run in comparison.runs]


def _row(run: RunComparison) -> OverviewRow:
    worst = primary(run.lines, run.metrics, "worst")
    neighbours = primary(run.lines, run.metrics, "neighbours")
    distance = distance_line(run.lines, run.metrics)
    cheapest = smallest(followed(run.work))
    shown = "–"
    if distance and distance.protected:
        before = f" (was {number(distance.original.value)})" if distance.original else ""
        shown = f"{distance.shown_metric} {number(distance.protected.value)}{before}"
    return OverviewRow(
        run.name,
        run.subject.name,
        f"{work_in_words(cheapest)} ({cheapest.label})" if cheapest else "–",
        with_interval(worst.original if worst else None),
        with_interval(worst.protected if worst else None),
        with_interval(worst.cut if worst else None, percent),
        shown,
        with_interval(neighbours.kept if neighbours else None, percent),
    )
