"""Several runs side by side: one row each, with what matters most."""

from __future__ import annotations

from typing import NamedTuple

from apdm_cli.report.schema import Comparison, Line, RunComparison
from apdm_cli.report.verdict import primary
from apdm_cli.report.words import number, percent, with_interval


class OverviewRow(NamedTuple):
    """Texts of one run: subject, worst case in both arms, cut, class pictures, neighbours."""

    run: str
    subject: str
    original: str
    protected: str
    cut: str
    utility: str
    kept: str


HEADINGS = OverviewRow(
    "run", "subject", "worst, original", "worst, protected", "cut", "class pictures", "others kept"
)


def overview(comparison: Comparison) -> list[OverviewRow]:
    """One row per run, in the order given."""
    return [_row(run) for run in comparison.runs]


def distance_line(run: RunComparison) -> Line | None:
    """How far class pictures moved: the first distance between sets that utility has."""
    return next((line for line in run.of("utility") if line.metric.startswith("fid")), None)


def _row(run: RunComparison) -> OverviewRow:
    worst, neighbours = primary(run.lines, "worst"), primary(run.lines, "neighbours")
    distance = distance_line(run)
    moved = "–"
    if distance and distance.protected:
        before = f" (was {number(distance.original.value)})" if distance.original else ""
        moved = f"{distance.shown_metric} {number(distance.protected.value)}{before}"
    return OverviewRow(
        run.name,
        run.subject.name,
        with_interval(worst.original if worst else None),
        with_interval(worst.protected if worst else None),
        with_interval(worst.cut if worst else None, percent),
        moved,
        with_interval(neighbours.kept if neighbours else None, percent),
    )
