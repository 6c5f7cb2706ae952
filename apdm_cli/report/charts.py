"""Which charts a report has, of which numbers, and what a screen reader says in their place."""

from __future__ import annotations

import re
from collections.abc import Sequence

from apdm_cli.report.plots import (
    Chart,
    Dot,
    WorkPanel,
    curves_chart,
    rounds_chart,
    similarity_chart,
    work_chart,
)
from apdm_cli.report.schema import Curve, Estimate, RunComparison
from apdm_cli.report.words import number

_ROUND = re.compile(r"\bround (\d+)\b")


def similarity(run: RunComparison, metric: str, key: str) -> Chart | None:
    """Every attack under `metric`, both arms, between floor and ceiling."""
    lines = list(run.of("attack", metric))
    if not lines:
        return None
    found = [
        (role, line.original.value)
        for role in ("floor", "ceiling")
        for line in run.lines
        if line.role == role and line.metric == metric and line.original
    ]
    said = "; ".join(
        f"{line.title}: original {_said(line.original)}, protected {_said(line.protected)}"
        for line in lines
    )
    return similarity_chart(
        key,
        f"Chart of {metric} per attack with 95 % intervals. {said}.",
        [(line.title, _dot_of(line.original), _dot_of(line.protected)) for line in lines],
        found,
        run.metric(metric).heading(lines[0].shown_metric),
    )


def work(run: RunComparison, key: str) -> Chart | None:
    """Likeness over steps of every attack that was looked at more than once, both models."""
    panels = work_panels(run)
    if not panels or run.likeness is None:
        return None
    said = "; ".join(
        f"{panel.title}: "
        + ", ".join(
            f"{arm} " + ", ".join(f"{number(y.value)} at {x:.0f}" for x, y in points)
            for arm, points in panel.curves.items()
        )
        for panel in panels
    )
    metric = run.likeness.metric
    return work_chart(
        key,
        f"Curves of {metric} over optimizer steps, a logarithmic axis. {said}. "
        f"A likeness is {number(run.likeness.value)}.",
        panels,
        run.likeness.value,
        metric,
    )


def work_panels(run: RunComparison) -> list[WorkPanel]:
    """The curves behind the work factors, in table order."""
    if run.likeness is None:
        return []
    panels = []
    for label in [one.label for one in run.work if one.stops > 1]:
        lines = [line for line in run.of("attack", run.likeness.metric) if line.label == label]
        curves = {
            arm: sorted(
                (
                    (
                        estimate.steps or line.budget,
                        Dot(estimate.value, estimate.low, estimate.high),
                    )
                    for line in lines
                    if (estimate := getattr(line, arm))
                ),
                key=lambda point: point[0],
            )
            for arm in ("original", "protected")
        }
        panels.append(WorkPanel(label, curves))
    return panels


def rounds(run: RunComparison, metric: str, key: str) -> Chart | None:
    """The curve over rounds of an attack that goes on, where there is one."""
    numbered = {
        int(found.group(1)): line
        for line in run.of("attack", metric)
        if line.budget == 1 and (found := _ROUND.search(line.variant))
    }
    if len(numbered) < 2:
        return None
    series = []
    for arm in ("original", "protected"):
        known = {
            place: dot
            for place, line in sorted(numbered.items())
            if (dot := _dot_of(getattr(line, arm)))
        }
        series.append((arm, list(known), list(known.values())))
    said = "; ".join(
        f"round {place}: original {_said(line.original)}, protected {_said(line.protected)}"
        for place, line in sorted(numbered.items())
    )
    return rounds_chart(key, f"{metric} after every round. {said}.", series, metric)


def attack_losses(curves: Sequence[Curve], key: str) -> Chart | None:
    """A panel per attack with its training loss, both arms."""
    attacks = [(curve.label, str(curve.arm), curve) for curve in curves if curve.arm]
    panels = [
        (
            title,
            [
                (arm, curve.steps, _plottable(curve.values["loss"]))
                for label, arm, curve in attacks
                if label == title
            ],
        )
        for title in dict.fromkeys(label for label, _, _ in attacks)
    ]
    if not panels:
        return None
    said = ", ".join(title for title, _ in panels)
    return curves_chart(key, f"Training loss of {said}, original and protected.", panels, "step")


def protection(curves: Sequence[Curve], key: str) -> Chart | None:
    """How the protection itself went."""
    curve = next((curve for curve in curves if curve.arm is None), None)
    if curve is None:
        return None
    panels = [
        (title, [("protection", curve.steps, _plottable(curve.values[name]))])
        for name, title in (curve.titles or {name: name for name in curve.values}).items()
        if name in curve.values
    ]
    if not panels:
        return None
    said = ", ".join(title for title, _ in panels)
    return curves_chart(key, f"Over the steps of the protection: {said}.", panels, "step")


def _dot_of(estimate: Estimate | None) -> Dot | None:
    return None if estimate is None else Dot(estimate.value, estimate.low, estimate.high)


def _said(estimate: Estimate | None) -> str:
    return "not scored" if estimate is None else number(estimate.value)


def _plottable(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]
