"""Which charts a report has, and the numbers that go into each."""

from __future__ import annotations

import re
from collections.abc import Sequence

from apdm_cli.report.charts import Chart, Dot, curves_chart, rounds_chart, similarity_chart
from apdm_cli.report.schema import Curve, Estimate, RunComparison
from apdm_cli.report.words import number, words_of

_ROUND = re.compile(r"\bround (\d+)\b")
_PROTECTION_PANELS = (
    ("objective", "DPO loss"),
    ("negative_margin", "error added on the photos (r⁻)"),
    ("preservation", "preservation loss"),
)


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
        f"{line.label}: original {_said(line.original)}, protected {_said(line.protected)}"
        for line in lines
    )
    return similarity_chart(
        key,
        f"Chart of {metric} per attack with 95 % intervals. {said}.",
        [(line.label, _dot(line.original), _dot(line.protected)) for line in lines],
        found,
        words_of(metric, lines[0].shown_metric).title,
    )


def rounds(run: RunComparison, metric: str, key: str) -> Chart | None:
    """The curve over rounds of an attack that goes on, where there is one."""
    numbered = {
        int(found.group(1)): line
        for line in run.of("attack", metric)
        if (found := _ROUND.search(line.variant))
    }
    if len(numbered) < 2:
        return None
    series = []
    for arm in ("original", "protected"):
        known = {
            place: dot
            for place, line in sorted(numbered.items())
            if (dot := _dot(getattr(line, arm)))
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
        for name, title in _PROTECTION_PANELS
        if name in curve.values
    ]
    if not panels:
        return None
    said = ", ".join(title for title, _ in panels)
    return curves_chart(key, f"Over the outer steps of the protection: {said}.", panels, "step")


def _dot(estimate: Estimate | None) -> Dot | None:
    return None if estimate is None else Dot(estimate.value, estimate.low, estimate.high)


def _said(estimate: Estimate | None) -> str:
    return "not scored" if estimate is None else number(estimate.value)


def _plottable(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]
