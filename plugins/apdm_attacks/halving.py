"""Successive halving, arXiv 1502.07943: many short trials, few long ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from apdm_cli.errors import UsageError

Trained = TypeVar("Trained")
Value = TypeVar("Value")
Point = dict[str, Any]


def logarithmic_grid(low: float, high: float, count: int) -> list[float]:
    """`count` values from `low` to `high` at equal ratios."""
    if count == 1:
        return [low]
    return [low * (high / low) ** (index / (count - 1)) for index in range(count)]


def rung_sizes(count: int, eta: int) -> list[int]:
    """How many of `count` are tried on each rung, where one in `eta` goes on: 8, 4, 2, 1."""
    sizes = [count]
    while sizes[-1] > 1:
        sizes.append(max(1, sizes[-1] // eta))
    return sizes


def climb(
    values: Sequence[Value],
    sizes: Sequence[int],
    share: int,
    attempt: Callable[[Value, int, bool], Point],
) -> list[Point]:
    """Try all of `values`, and on every further rung the best of those that were on the last.

    Args:
        sizes: how many are tried on each rung.
        share: steps of all attempts on one rung together.
        attempt: (value, steps, whether it is the last rung) → point with a "score"; a higher one
            is better.
    """
    points: list[Point] = []
    for number, size in enumerate(sizes, start=1):
        steps, last = share // size, number == len(sizes)
        rung = [(attempt(value, steps, last), value) for value in values[:size]]
        points += [point for point, _ in rung]
        best = sorted(rung, key=lambda tried: tried[0]["score"], reverse=True)
        values = [value for _, value in best]
    return points


def halve(
    values: list[float],
    budget: int,
    attempt: Callable[[float, int, bool], tuple[Point, Trained]],
) -> tuple[Trained, list[Point]]:
    """Try `values`, keep the better half with twice the steps, until one is left.

    Args:
        values: a power of two of them.
        budget: steps of all attempts together, at least `len(values) · (log2(len(values)) + 1)`.
        attempt: (value, steps, whether it is the last) → (point with "value" and "score", what was
            trained). A higher score is better.

    Returns:
        What the last attempt trained, and every point in order.
    """
    rungs = math.log2(len(values)) + 1
    if rungs % 1 or budget < rungs * len(values):
        raise UsageError(
            f"{budget} steps cannot be halved over {len(values)} rates",
            "The rates are a power of two, and the steps at least rates × (log2(rates) + 1).",
        )
    found: list[Trained] = []

    def attempted(value: float, steps: int, last: bool) -> Point:
        found.clear()  # of all that is trained, one model at a time is held
        point, trained = attempt(value, steps, last)
        found.append(trained)
        return point

    points = climb(values, rung_sizes(len(values), 2), budget // int(rungs), attempted)
    return found[0], points
