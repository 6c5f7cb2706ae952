"""What the numbers show, and no more than that: one sentence a run, and one row a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from apdm_cli.report.schema import Comparison, Line, LineRole, Metric, RunComparison
from apdm_cli.report.words import number, percent, with_interval


def verdict(lines: Sequence[Line], metrics: Sequence[Metric]) -> str:
    """The sentence over the worst case over attacks, with the price in utility where measured."""
    worst = primary(lines, metrics, "worst")
    if worst is None:
        return "No similarity to the subject was measured, so nothing is said about the protection."
    price = _price(lines, metrics)
    return _protection(worst, lines, metrics) + (f"; {price}." if price else ".")


def primary(lines: Sequence[Line], metrics: Sequence[Metric], role: LineRole) -> Line | None:
    """The line of `role` under the metric that leads: the first that may and has such a line."""
    of_role = {line.metric: line for line in reversed(lines) if line.role == role}
    leading = (metric.metric for metric in metrics if metric.leads)
    return next((of_role[name] for name in leading if name in of_role), None)


def distance_line(lines: Sequence[Line], metrics: Sequence[Metric]) -> Line | None:
    """How far class pictures moved: the first distance between sets that utility has."""
    distances = {metric.metric for metric in metrics if metric.kind == "distance"}
    utility = (line for line in lines if line.role == "utility")
    return next((line for line in utility if line.metric in distances), None)


def _protection(worst: Line, lines: Sequence[Line], metrics: Sequence[Metric]) -> str:
    if worst.protected is None:
        return "No attack on the protected model was scored, so nothing is said about it"
    floor = next((one for one in lines if (one.role, one.metric) == ("floor", worst.metric)), None)
    floor_value = floor.original.value if floor and floor.original else None
    reached = f"reaches similarity {with_interval(worst.protected)} to the subject"
    if worst.original is None:
        return (
            f"{_attacker(worst, lines)} {reached} on the protected model; without the same attack "
            "on the original this shows nothing, the attack may simply be weak"
        )
    level = "" if floor_value is None else f" (floor {number(floor_value)})"
    against = f"against {number(worst.original.value)} on the original{level}"
    if floor_value is not None and worst.cut is None:
        return (
            f"The attack did not clearly succeed on the original ({number(worst.original.value)}, "
            f"floor {number(floor_value)}), so {with_interval(worst.protected)} on the protected "
            "model shows nothing"
        )
    sentence = f"{_attacker(worst, lines)} {reached} on the protected model, {against}: "
    difference = worst.difference
    if difference is None or difference.low is None:
        return sentence + "without an interval this may be chance"
    if not difference.excludes_zero:
        return sentence + "no difference that could not be chance"
    if difference.value > 0:
        return sentence + "the protection made it easier"
    if worst.cut is None:
        return sentence + f"{number(-difference.value)} less"
    return sentence + f"{with_interval(worst.cut, percent)} of what it gained is gone"


def _attacker(worst: Line, lines: Sequence[Line]) -> str:
    count = len({line.label for line in lines if line.role == "attack"})
    attack = worst.reached_by.get("protected", "attack")
    return f"The strongest of {count} attacks, {attack}," if count > 1 else f"The {attack} attack"


def _price(lines: Sequence[Line], metrics: Sequence[Metric]) -> str:
    """What it cost everybody else, as far as that was measured."""
    said = []
    distance = distance_line(lines, metrics)
    if distance and distance.protected:
        between = (
            f" (two seeds of the original: {number(distance.original.value)})"
            if distance.original
            else ""
        )
        said.append(
            f"{distance.label} moved by {distance.shown_metric} {number(distance.protected.value)}"
            f"{between}"
        )
    neighbours = primary(lines, metrics, "neighbours")
    if neighbours and neighbours.kept:
        said.append(f"other subjects can still be taught {percent(neighbours.kept.value)} as well")
    return "; ".join(said)


class OverviewRow(NamedTuple):
    """The texts of one run: subject, worst case in both arms, cut, class pictures, neighbours."""

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


def _row(run: RunComparison) -> OverviewRow:
    worst = primary(run.lines, run.metrics, "worst")
    neighbours = primary(run.lines, run.metrics, "neighbours")
    distance = distance_line(run.lines, run.metrics)
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
