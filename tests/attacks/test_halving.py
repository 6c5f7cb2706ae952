"""The search spends its budget and finds the best value."""

from __future__ import annotations

import pytest

from apdm_attacks.halving import Point, halve, logarithmic_grid
from apdm_cli.errors import UsageError


def test_the_grid_is_logarithmic() -> None:
    assert logarithmic_grid(1e-6, 1e-3, 4) == pytest.approx([1e-6, 1e-5, 1e-4, 1e-3])
    assert logarithmic_grid(1e-6, 1e-3, 1) == [1e-6]


def test_the_best_survives_and_the_budget_is_kept() -> None:
    spent: list[tuple[float, int, bool]] = []

    def attempt(value: float, steps: int, last: bool) -> tuple[Point, str]:
        spent.append((value, steps, last))
        return {"value": value, "score": -abs(value - 3)}, f"trained {value}"

    trained, points = halve([1.0, 2.0, 3.0, 4.0], 120, attempt)
    assert trained == "trained 3.0"
    assert [steps for _, steps, _ in spent] == [10] * 4 + [20] * 2 + [40]
    assert [last for _, _, last in spent] == [False] * 6 + [True]
    assert [point["value"] for point in points[-3:-1]] == [3.0, 2.0]


def test_a_diverged_value_loses() -> None:
    def attempt(value: float, steps: int, last: bool) -> tuple[Point, float]:
        return {"value": value, "score": float("-inf") if value > 1 else 0.0}, value

    assert halve([2.0, 1.0], 8, attempt)[0] == 1.0


@pytest.mark.parametrize(("values", "budget"), [(4, 11), (3, 100), (2, 0)])
def test_what_cannot_be_halved(values: int, budget: int) -> None:
    with pytest.raises(UsageError):
        halve([float(value) for value in range(values)], budget, lambda *_: ({}, None))
