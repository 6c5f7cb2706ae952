"""Work factors of single attacks, and their means: a bound stays a bound.

What a work factor is says `apdm_cli.report.work`, which computes it. Where a curve reaches the
likeness before its first stop, or not by its last one, the factor is only known to be at least or
at most so much: it is *censored*.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from apdm_cli.report.intervals import Quantity
from apdm_cli.report.work import Curve, work

Bound = Literal["", ">", "<", "?"]
Points = Sequence[tuple[float, float]]  # (steps, similarity), ascending in steps


@dataclass(frozen=True)
class Bounded:
    """A positive number, or a bound on it.

    Attributes:
        bound: "" where `value` is exact, ">" where it is at least that, "<" at most; "?" for a mean
            of bounds on both sides, which bounds nothing.
    """

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


def work_factor(original: Points, protected: Points, likeness: float) -> Bounded | None:
    """Steps on the protected model over steps on the original; None where nothing can be said:
    the original never comes to `likeness`, or both models are there at the first stop."""
    limits = work(_curve(original), _curve(protected), likeness).factor
    if limits is None or (limits.low == 0 and limits.high is None):
        return None
    if limits.high is None:
        return Bounded(limits.low, ">")
    return Bounded(limits.high, "" if limits.exact else "<")


def geometric_mean(factors: Sequence[Bounded]) -> Bounded:
    """Of at least one factor; a bound, where one of them is."""
    logs = [math.log(factor.value) for factor in factors]
    return Bounded(math.exp(sum(logs) / len(logs)), _joined(one.bound for one in factors))


def _curve(points: Points) -> Curve:
    steps, values = zip(*points, strict=True)
    return Curve(steps, tuple(Quantity(value, None) for value in values))


def _joined(bounds: Iterable[Bound]) -> Bound:
    sides = {bound for bound in bounds if bound}
    return sides.pop() if len(sides) == 1 else "?" if sides else ""
