"""Successive halving, arXiv 1502.07943: many short trials, few long ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

from apdm_cli.errors import UsageError

Trained = TypeVar("Trained")
Point = dict[str, Any]


def logarithmic_grid(low: float, high: float, count: int) -> list[float]:
    """`count` values from `low` to `high` at equal ratios."""
    if count == 1:
        return [low]
    return [low * (high / low) ** (index / (count - 1)) for index in range(count)]


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
    points: list[Point] = []
    while True:
        steps, last = budget // (int(rungs) * len(values)), len(values) == 1
        rung = [attempt(value, steps, last) for value in values]
        points += [point for point, _ in rung]
        if last:
            return rung[0][1], points
        best = sorted((point for point, _ in rung), key=lambda p: p["score"], reverse=True)
        values = [point["value"] for point in best[: len(values) // 2]]
