"""The work factor: how many times as many steps an attacker needs on the protected model.

An attack that is looked at several times (`apdm attack --budgets`) gives a curve for each model:
likeness over optimizer steps. Where the curve first comes to the stated likeness, log-interpolated
between the two stops around it, is the attacker's work; the work factor is the protected model's
over the original's.

What the stops do not show is not made up:

- A curve that is above the likeness at its first stop came to it in *at most* so many steps. The
  unattacked model's similarity belongs to step 0, which no logarithmic axis has, and nothing is
  interpolated from there: a guess of how an attack begins would decide the number.
- A curve that never comes to it needs *more than* the steps of its last stop.
- Curves are noisy and may fall again: the first crossing counts, for an attacker keeps the first
  model that is good enough.

So a work factor has a lower and an upper limit, which are equal where both curves cross between
stops. Its interval follows from the draws behind every stop (`intervals`): the same seeds, and the
same noise for all stops of a model, because all were drawn from the same prompts and seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from apdm_cli.report import intervals
from apdm_cli.report.groups import ARMS, Group, groups, levels_of, sample_of
from apdm_cli.report.intervals import Quantity
from apdm_cli.report.schema import Likeness, Limits, WorkFactor
from apdm_cli.report.words import number, plain_steps
from apdm_cli.scores import Arm, MetricMeaning, ScoreRow

CERTAIN = 0.975  # share of the draws in which the original has to come to the likeness


class Crossing(NamedTuple):
    """Steps to a likeness: lower and upper limits, shape (D,); 0 and infinity where unknown."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """Likeness over steps of one attacked model.

    Attributes:
        steps: of every stop, ascending, above 0.
        stops: the similarity there, with its draws.
    """

    steps: tuple[float, ...]
    stops: tuple[Quantity, ...]

    @property
    def values(self) -> NDArray[np.float64]:
        """The measured similarities, shape (1, K)."""
        return np.array([[stop.value for stop in self.stops]])

    @property
    def draws(self) -> NDArray[np.float64] | None:
        """Their draws, shape (D, K); None where nothing is known of the spread of some stop."""
        known = [stop.draws for stop in self.stops if stop.draws is not None]
        return np.stack(known, axis=1) if len(known) == len(self.stops) else None


def crossing(steps: Sequence[float], values: NDArray[np.float64], likeness: float) -> Crossing:
    """Where curves first come to `likeness`.

    Args:
        steps: K stops, ascending, above 0.
        values: shape (D, K).

    Returns:
        Equal limits where a curve comes to it between two stops, at
        log s = log s₀ + (likeness − y₀) / (y₁ − y₀) · log(s₁ / s₀); (0, s₁) where it is there at
        the first stop; (s_K, ∞) where it never is.
    """
    at = np.asarray(steps, dtype=np.float64)
    reached = values >= likeness
    never, first = ~reached.any(axis=1), reached.argmax(axis=1)
    rows, before = np.arange(len(values)), np.maximum(first - 1, 0)
    lower, upper = values[rows, before], values[rows, first]
    inside = ~never & (first > 0)
    share = np.where(inside, likeness - lower, 0.0) / np.where(inside, upper - lower, 1.0)
    between = at[before] * (at[first] / at[before]) ** share
    low = np.where(never, at[-1], np.where(first == 0, 0.0, between))
    high = np.where(never, np.inf, np.where(first == 0, at[0], between))
    return Crossing(low, high)


def ratio(original: Crossing, protected: Crossing) -> Crossing:
    """Limits of protected / original, draw by draw; NaN where the original never gets there."""
    unknown = np.isinf(original.high)
    with np.errstate(divide="ignore", invalid="ignore"):
        low = np.where(unknown, np.nan, protected.low / original.high)
        high = np.where(
            unknown, np.nan, np.where(original.low == 0, np.inf, protected.high / original.low)
        )
    return Crossing(low, high)


@dataclass(frozen=True)
class Work:
    """What two curves say: steps on each model, their ratio, and its 95 % interval.

    Attributes:
        factor: None where the original does not clearly come to the likeness.
        interval: None where nothing is known of the spread. Draws in which the original does not
            come to the likeness (at most 2.5 % of them) are left out of it.
    """

    original: Limits
    protected: Limits
    factor: Limits | None
    interval: Limits | None


def work(original: Curve, protected: Curve, likeness: float) -> Work:
    """The work factor of two curves at `likeness`, in the unit and direction of their values."""
    first = crossing(original.steps, original.values, likeness)
    second = crossing(protected.steps, protected.values, likeness)
    steps = (_limits(first), _limits(second))
    if np.isinf(first.high[0]):
        return Work(*steps, None, None)
    factor = _limits(ratio(first, second))
    if original.draws is None or protected.draws is None:
        return Work(*steps, factor, None)
    drawn = ratio(
        crossing(original.steps, original.draws, likeness),
        crossing(protected.steps, protected.draws, likeness),
    )
    counted = ~np.isnan(drawn.low)
    if counted.mean() < CERTAIN:
        return Work(*steps, None, None)
    # Of the draws themselves, not between two of them: half-way to infinity is no number.
    low = float(np.percentile(drawn.low[counted], 2.5, method="lower"))
    high = float(np.percentile(drawn.high[counted], 97.5, method="higher"))
    return Work(*steps, factor, Limits(low=low, high=None if math.isinf(high) else high))


def halfway(rows: Sequence[ScoreRow], meaning: MetricMeaning) -> float | None:
    """The likeness between floor and ceiling of a metric; None where one of them is missing."""
    levels = [
        levels_of(rows, {meaning.name: meaning}, role).get(meaning.name)
        for role in ("floor", "ceiling")
    ]
    known = [level.value for level in levels if level is not None]
    return sum(known) / 2 if len(known) == 2 else None


def work_factors(
    rows: Sequence[ScoreRow], meaning: MetricMeaning, likeness: Likeness
) -> list[WorkFactor]:
    """One for every attack that was scored on both models under the metric, in table order.

    An attack that was looked at once says that it did or did not come to the likeness by then.
    """
    together: dict[str, dict[float, Group]] = {}
    for group in groups(rows, {meaning.name: meaning}, "attack"):
        together.setdefault(group.label, {})[group.budget] = group
    found = []
    for label, at in together.items():
        curves = _curves(dict(sorted(at.items())))
        if curves is None:
            continue
        sign = 1.0 if meaning.better == "lower" else -1.0
        both = (_flipped(curves["original"], sign), _flipped(curves["protected"], sign))
        known = work(*both, sign * likeness.value)
        group = next(iter(at.values()))
        found.append(
            WorkFactor(
                label=label,
                attack=group.attack,
                variant=group.variant,
                stops=max(len(curve.steps) for curve in curves.values()),
                original=known.original,
                protected=known.protected,
                factor=known.factor,
                interval=known.interval,
                why_not="" if known.factor else _why_not(known, curves["original"], likeness),
            )
        )
    return found


def _curves(at: Mapping[float, Group]) -> dict[Arm, Curve] | None:
    """Both models' curves over the seeds that all of their stops have; None without any."""
    stops = {arm: [group for group in at.values() if _valued(group, arm)] for arm in ARMS}
    valued = [_valued(group, arm) for arm in ARMS for group in stops[arm]]
    seeds = sorted(set.intersection(*valued)) if all(stops.values()) else []
    if not seeds:
        return None
    counted = all(
        group.steps[arm].get(seed) for arm in ARMS for group in stops[arm] for seed in seeds
    )
    curves: dict[Arm, Curve] = {}
    for place, arm in enumerate(ARMS):
        points = []
        for group in stops[arm]:
            samples = [sample_of(group.scores[arm][seed]) for seed in seeds]
            # Both places are filled, so that the noise of a model is its own at every stop.
            level = intervals.resample([samples, samples], group.draws_from)[place]
            taken = [group.steps[arm].get(seed) or 0 for seed in seeds]
            # An older version did not count steps: its budgets are in proportion to them.
            points.append((sum(taken) / len(taken) if counted else group.budget, level))
        points.sort(key=lambda point: point[0])
        curves[arm] = Curve(tuple(x for x, _ in points), tuple(level for _, level in points))
    return curves


def _valued(group: Group, arm: Arm) -> set[int]:
    return {seed for seed, score in group.scores[arm].items() if score.has_value}


def _flipped(curve: Curve, sign: float) -> Curve:
    if sign > 0:
        return curve
    return Curve(
        curve.steps,
        tuple(Quantity(-s.value, None if s.draws is None else -s.draws) for s in curve.stops),
    )


def _limits(found: Crossing) -> Limits:
    low, high = float(found.low[0]), float(found.high[0])
    return Limits(low=low, high=None if math.isinf(high) else high)


def _why_not(known: Work, original: Curve, likeness: Likeness) -> str:
    steps = plain_steps(original.steps[-1])
    if known.original.high is None:
        best = number(max(stop.value for stop in original.stops))
        return (
            f"the original itself did not come to {number(likeness.value)} within {steps}, "
            f"at most to {best}"
        )
    return f"the original itself did not clearly come to {number(likeness.value)} within {steps}"
