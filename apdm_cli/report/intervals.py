"""Means over seeds and what follows from them, with 95 % intervals. Pure numbers.

Every quantity is resampled `DRAWS` times and carried along as an array of draws, so that a
difference, a mean over attacks and a cut get their intervals in one and the same way:

- several seeds: seeds are drawn with replacement, the same ones in both arms (bootstrap). A sample
  of k varies too little by the factor √((k−1)/k), which is put back; it matters at k = 3;
- every drawn score varies within its own interval (bootstrap over pictures and photos, made by the
  metric), as a normal with one width below and one above the value. With one seed this is all
  there is: such an interval knows nothing of how much a second attack would differ.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apdm_cli.scores import Better

DRAWS = 4000
_Z = 1.959963984540054  # 97.5 % of a normal
Draws = NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """One score: value and, where the metric gave one, its 95 % interval."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Quantity:
    """A value with its draws; None where nothing is known of its spread."""

    value: float
    draws: Draws | None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The central 95 % of the draws."""
        if self.draws is None:
            return None
        low, high = np.percentile(self.draws, [2.5, 97.5])
        return float(low), float(high)


def resample(arms: Sequence[Sequence[Sample]], name: str) -> list[Quantity]:
    """The mean over seeds of every arm. `arms[a][k]` is seed k in arm a, same seeds in each.

    `name` alone decides the random numbers: the same scores give the same intervals, always.
    """
    seeds = len(arms[0])
    if not seeds or any(len(arm) != seeds for arm in arms):
        raise ValueError("every arm needs the same seeds, and at least one")
    random = np.random.default_rng(
        int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    )
    chosen = random.integers(seeds, size=(DRAWS, seeds))
    return [_mean(arm, chosen, random.standard_normal((DRAWS, seeds))) for arm in arms]


def difference(of: Quantity, minus: Quantity) -> Quantity:
    """`of` − `minus`, draw by draw."""
    return Quantity(of.value - minus.value, _apply(np.subtract, of.draws, minus.draws))


def fixed(value: float) -> Quantity:
    """A number without spread."""
    return Quantity(value, np.full(DRAWS, value))


def mean(quantities: Sequence[Quantity]) -> Quantity:
    """Their mean, for instance over attacks."""
    total, draws = quantities[0].value, quantities[0].draws
    for quantity in quantities[1:]:
        total, draws = total + quantity.value, _apply(np.add, draws, quantity.draws)
    count = len(quantities)
    return Quantity(total / count, None if draws is None else draws / count)


def cut(
    original: Quantity, protected: Quantity, floor: Quantity, better: Better = "lower"
) -> Quantity | None:
    """(original − protected) / (original − floor): the share of the attack's gain that is gone.

    1: the attack gains nothing any more; 0: the protection does nothing; below 0: it helps.
    An attack gains what takes it above the floor, and below it where `better` is "higher".
    None where the attack did not clearly gain anything on the original (its gain's interval
    reaches 0): there is nothing to cut, and the ratio would be noise.
    """
    if better == "lower":
        gain, loss = difference(original, floor), difference(original, protected)
    else:
        gain, loss = difference(floor, original), difference(protected, original)
    interval = gain.interval
    if gain.value <= 0 or (interval is not None and interval[0] <= 0):
        return None
    # Draws outside the interval may still come near zero; far tails don't move the percentiles.
    return Quantity(loss.value / gain.value, _apply(_ratio, loss.draws, gain.draws))


def ratio(of: Quantity, to: Quantity) -> Quantity | None:
    """`of` / `to`; None where `to` is not clearly above 0."""
    interval = to.interval
    if to.value <= 0 or (interval is not None and interval[0] <= 0):
        return None
    return Quantity(of.value / to.value, _apply(_ratio, of.draws, to.draws))


def _mean(samples: Sequence[Sample], chosen: NDArray[np.int64], noise: Draws) -> Quantity:
    values = np.array([sample.value for sample in samples])
    value, count = float(values.mean()), len(samples)
    below = np.array([_width(sample.value, sample.low) for sample in samples])
    above = np.array([_width(sample.high, sample.value) for sample in samples])
    if count == 1 and not (below.any() or above.any()):
        known = samples[0].low is not None and samples[0].high is not None
        return fixed(value) if known else Quantity(value, None)
    within = np.where(noise < 0, noise * below[chosen], noise * above[chosen])
    between = values[chosen] - value
    if count > 1:
        between *= math.sqrt(count / (count - 1))
    return Quantity(value, value + (between + within).mean(axis=1))


def _width(upper: float | None, lower: float | None) -> float:
    return 0.0 if upper is None or lower is None else max(0.0, upper - lower) / _Z


def _ratio(upper: Draws, lower: Draws) -> Draws:
    return upper / np.where(np.abs(lower) < 1e-12, 1e-12, lower)


def _apply(
    operation: Callable[[Draws, Draws], Draws], first: Draws | None, second: Draws | None
) -> Draws | None:
    return None if first is None or second is None else operation(first, second)
