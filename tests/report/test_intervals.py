"""Means, differences and cuts with their intervals, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from apdm_cli.report.intervals import (
    Quantity,
    Sample,
    cut,
    difference,
    fixed,
    mean,
    ratio,
    resample,
)


def one(value: float, spread: float = 0.05) -> Sample:
    return Sample(value, value - spread, value + spread)


def interval(quantity: Quantity | None) -> tuple[float, float]:
    assert quantity is not None and quantity.interval is not None
    return quantity.interval


def test_one_seed_keeps_the_interval_of_its_score_also_a_lopsided_one() -> None:
    (arm,) = resample([[Sample(0.5, 0.48, 0.6)]], "x")
    assert interval(arm) == pytest.approx((0.48, 0.6), abs=0.005)


def test_the_difference_of_two_independent_scores_is_root_two_wider() -> None:
    original, protected = resample([[one(0.6)], [one(0.2)]], "x")
    low, high = interval(difference(protected, original))
    assert (low + high) / 2 == pytest.approx(-0.4, abs=0.005)
    assert (high - low) / 2 == pytest.approx(0.05 * 2**0.5, rel=0.05)


def test_seeds_are_drawn_in_pairs_so_what_they_share_cancels() -> None:
    original = [Sample(value, value, value) for value in (0.3, 0.5, 0.9)]
    protected = [Sample(value - 0.2, value - 0.2, value - 0.2) for value in (0.3, 0.5, 0.9)]
    first, second = resample([original, protected], "x")
    low, high = interval(first)
    assert high - low > 0.4  # the seeds differ a lot
    assert interval(difference(second, first)) == pytest.approx((-0.2, -0.2))


def test_without_any_interval_nothing_is_claimed() -> None:
    original, protected = resample([[Sample(0.6)], [Sample(0.2)]], "x")
    assert original.interval is None
    assert difference(protected, original).value == pytest.approx(-0.4)
    assert difference(protected, original).interval is None


def test_several_seeds_give_an_interval_even_where_scores_have_none() -> None:
    (arm,) = resample([[Sample(0.4), Sample(0.5), Sample(0.6)]], "x")
    low, high = interval(arm)
    assert arm.value == pytest.approx(0.5)
    # Standard error of three values with standard deviation 0.1: 0.058, 1.96 times that is 0.11.
    assert 0.07 < (high - low) / 2 < 0.16


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    random = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        values = random.normal(0.5, 0.05, 5) + random.normal(0, 0.03, 5)
        (arm,) = resample([[one(float(value), 1.96 * 0.03) for value in values]], str(trial))
        low, high = interval(arm)
        hits += low <= 0.5 <= high
    assert 0.89 <= hits / 200 <= 0.99


def test_cut_by_hand() -> None:
    found = cut(fixed(0.6), fixed(0.2), fixed(0.1))
    assert found is not None
    assert found.value == pytest.approx(0.8)
    assert interval(found) == pytest.approx((0.8, 0.8))


def test_no_cut_where_the_attack_gained_nothing_for_certain() -> None:
    original, protected = resample([[one(0.12)], [one(0.1)]], "x")
    assert cut(original, protected, fixed(0.1)) is None  # its interval reaches the floor
    assert cut(fixed(0.05), fixed(0.0), fixed(0.1)) is None


def test_a_protection_that_helps_the_attack_has_a_negative_cut() -> None:
    found = cut(fixed(0.5), fixed(0.6), fixed(0.0))
    assert found is not None and found.value == pytest.approx(-0.2)


def test_mean_over_attacks_is_narrower_than_one_attack() -> None:
    (first,) = resample([[one(0.4)]], "a")
    (second,) = resample([[one(0.6)]], "b")
    low, high = interval(mean([first, second]))
    assert (low + high) / 2 == pytest.approx(0.5, abs=0.005)
    assert (high - low) / 2 == pytest.approx(0.05 / 2**0.5, rel=0.05)


def test_ratio_needs_something_to_divide_by() -> None:
    found = ratio(fixed(0.45), fixed(0.5))
    assert found is not None and found.value == pytest.approx(0.9)
    assert ratio(fixed(0.45), fixed(0.0)) is None


def test_the_same_scores_always_give_the_same_interval() -> None:
    again = [resample([[one(0.4), one(0.5)]], "x")[0].interval for _ in range(2)]
    assert again[0] == again[1]
    assert resample([[one(0.4), one(0.5)]], "y")[0].interval != again[0]


def test_arms_with_other_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match="same seeds"):
        resample([[one(0.4)], [one(0.4), one(0.5)]], "x")
