"""The work factor: how many times the steps an attacker needs on the protected model.

Where a curve reaches the likeness before its first point, or not by its last one, the number of
steps is only a bound, and so is the factor: such a factor is *censored*. Bounds stay bounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Bound = Literal["", ">", "<", "?"]  # exact, at least, at most, unknown side


@dataclass(frozen=True)
class Bounded:
    """A positive number, or a bound on it: `bound` ">" says that it is at least `value`."""

    value: float
    bound: Bound = ""

    @property
    def censored(self) -> bool:
        """Whether it is only a bound."""
        return bool(self.bound)

    @property
    def text(self) -> str:
        """`5.2`, `≥ 6.0`."""
        sign = {"": "", ">": "≥ ", "<": "≤ ", "?": "≈ "}[self.bound]
        return f"{sign}{self.value:.1f}"


def steps_to(points: Sequence[tuple[float, float]], likeness: float) -> Bounded:
    """Steps after which the similarity first reaches `likeness`, log-interpolated.

    Args:
        points: (steps, similarity), ascending in steps.
    """
    before: tuple[float, float] | None = None
    for steps, similarity in points:
        if similarity >= likeness:
            if before is None:
                return Bounded(steps, "<")
            part = (likeness - before[1]) / (similarity - before[1])
            return Bounded(math.exp(math.log(before[0]) * (1 - part) + math.log(steps) * part))
        before = steps, similarity
    return Bounded(points[-1][0], ">")


def work_factor(
    original: Sequence[tuple[float, float]],
    protected: Sequence[tuple[float, float]],
    likeness: float,
) -> Bounded | None:
    """Steps on the protected model over steps on the original; None where the original never
    reaches `likeness`: then nothing can be said."""
    ours, theirs = steps_to(original, likeness), steps_to(protected, likeness)
    if ours.bound == ">":
        return None
    factor = theirs.value / ours.value
    # Fewer steps on the original than its bound make the factor larger.
    sides = {theirs.bound, ">" if ours.bound == "<" else ""}
    return Bounded(factor, _joined(sides))


def geometric_mean(factors: Sequence[Bounded]) -> Bounded:
    """Of at least one factor; a bound, where one of them is."""
    logs = [math.log(factor.value) for factor in factors]
    bound = _joined({factor.bound for factor in factors})
    return Bounded(math.exp(sum(logs) / len(logs)), bound)


def _joined(bounds: set[Bound] | set[str]) -> Bound:
    sides = bounds - {""}
    if not sides:
        return ""
    if sides == {">"}:
        return ">"
    return "<" if sides == {"<"} else "?"
