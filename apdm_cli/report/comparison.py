"""From the rows of scores.json to the lines of the table. Pure: no file is touched."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from apdm_cli.report import intervals
from apdm_cli.report.groups import ARMS, Group, groups, levels_of, sample_of
from apdm_cli.report.intervals import Quantity
from apdm_cli.report.line_pictures import pictures_of
from apdm_cli.report.schema import Estimate, Interval, Line, LineRole
from apdm_cli.scores import Arm, Better, MetricMeaning, Role, Score, ScoreRow

_Level = Literal["floor", "ceiling"]


@dataclass(frozen=True)
class _Measured:
    """A line and the draws behind it, which summaries go on with."""

    line: Line
    arms: dict[Arm, Quantity]
    meaning: MetricMeaning


def compare_rows(
    rows: Sequence[ScoreRow], metrics: Sequence[MetricMeaning]
) -> tuple[list[Line], list[str]]:
    """The lines of the table, and sentences about what could not be compared as asked.

    In order: every attack under every metric at every budget, then per metric the mean and the
    worst case over attacks, utility, neighbours and their mean, floor and ceiling. A metric that
    takes no side has no worst case. Means and worst case are taken over the attacks with a value
    in both arms, where any has one, and at the attacks' own steps (budget 1; where an attack has
    no value in both arms there, at the budget nearest to that which has).

    Args:
        metrics: what every metric in `rows` means.
    """
    said: list[str] = []
    meanings = {meaning.name: meaning for meaning in metrics}
    floors = levels_of(rows, meanings, "floor")
    lines: list[Line] = []
    attacks = _measure(groups(rows, meanings, "attack"), rows, floors, said)
    lines += [measured.line for measured in attacks]
    said += _without_protected(lines)
    for metric in dict.fromkeys(measured.line.metric for measured in attacks):
        of_metric = _at_own_steps([one for one in attacks if one.line.metric == metric])
        lines.append(_mean_line(of_metric, "mean", "mean over attacks", floors))
        lines += _worst_line(of_metric, floors)
    lines += [m.line for m in _measure(groups(rows, meanings, "utility"), rows, {}, said)]
    neighbours = _measure(groups(rows, meanings, "neighbour"), rows, {}, said)
    lines += [measured.line for measured in neighbours]
    for metric in dict.fromkeys(measured.line.metric for measured in neighbours):
        of_metric = _at_own_steps([one for one in neighbours if one.line.metric == metric])
        lines.append(_mean_line(of_metric, "neighbours", "mean over neighbours", {}))
    for role in get_args(_Level):
        lines += _level_lines(rows, meanings, role, said)
    return lines, list(dict.fromkeys(said))


def _without_protected(lines: Sequence[Line]) -> list[str]:
    """A sentence about attacks and stops of which nothing was scored on the protected side."""
    scored = {
        (one.label, one.budget) for one in lines if one.protected or "protected" in one.no_value
    }
    elsewhere = {label for label, _ in scored}
    names = [
        f"{one.label}, {one.budget:g} × the steps" if one.label in elsewhere else one.title
        for one in lines
        if (one.label, one.budget) not in scored
    ]
    if not names:
        return []
    return [
        f"Of {'; '.join(dict.fromkeys(names))} only the original's side was scored, which shows "
        "nothing about the protection"
    ]


def _at_own_steps(measured: Sequence[_Measured]) -> list[_Measured]:
    """Of the attacks (or neighbours) that lack least, each at budget 1 or the nearest to it."""
    least = min(one.line.lacks for one in measured)
    nearest: dict[str, _Measured] = {}
    for one in measured:
        if one.line.lacks != least:
            continue  # an arm that is not there would look like the protection's doing
        held = nearest.get(one.line.label)
        if held is None or _distance(one) < _distance(held):
            nearest[one.line.label] = one
    return list(nearest.values())


def _distance(one: _Measured) -> float:
    return abs(math.log(one.line.budget))


def _measure(
    groups: Iterable[Group],
    rows: Sequence[ScoreRow],
    floors: dict[str, Quantity],
    said: list[str],
) -> list[_Measured]:
    measured = []
    for group in groups:
        seeds = _seeds(group, said)
        arms = _quantities(group, seeds)
        what = f"{group.metric} of {group.label} has no value"
        if not arms:
            said += [f"{what}: {why}" for why in list(_reasons(group).values())[:1]]
            continue
        said += [
            f"{what} for the {arm} model{seeds_in_words}: {why}"
            for (arm, seeds_in_words), why in _reasons(group).items()
        ]
        line = Line(
            role=group.role,
            label=group.label,
            attack=group.attack,
            variant=group.variant,
            budget=group.budget,
            metric=group.metric,
            shown_metric=group.shown,
            better=group.better,
            pictures=pictures_of(group, rows),
            no_value=_no_value(group, arms),
            **{arm: _estimate(group, arm, seeds[arm], arms[arm]) for arm in arms},
            **_contrasts(
                arms, floors.get(group.metric), group.better, _shares(group.role, group.meaning)
            ),
        )
        measured.append(_Measured(line, arms, group.meaning))
    return measured


def _reasons(group: Group) -> dict[tuple[Arm, str], str]:
    """(arm, `, seed 1` where other seeds have a value) → why there is none."""
    return {
        (arm, f", seed {seed}" if _has_values(group, arm) else ""): _why(score)
        for arm, scores in group.scores.items()
        for seed, score in scores.items()
        if not score.has_value
    }


def _no_value(group: Group, arms: Collection[Arm]) -> dict[Arm, str]:
    """Why arms that were scored are not among `arms`."""
    return {
        arm: "it was run with other seeds"
        if _has_values(group, arm)
        else next(map(_why, scores.values()))
        for arm, scores in group.scores.items()
        if scores and arm not in arms
    }


def _has_values(group: Group, arm: Arm) -> bool:
    return any(score.has_value for score in group.scores[arm].values())


def _why(score: Score) -> str:
    if score.why:
        return score.why
    if score.n:  # `apdm evaluate` writes no such score, but a file may hold one
        return "the metric gave no finite number"
    if score.skipped:
        return f"every picture was skipped ({score.skipped} of one colour)"
    return "no picture was scored"


def _seeds(group: Group, said: list[str]) -> dict[Arm, list[int]]:
    """The seeds that enter, per arm: those with a value in both arms, where both have any."""
    have = {
        arm: sorted(seed for seed, score in scores.items() if score.has_value)
        for arm, scores in group.scores.items()
    }
    original, protected = have["original"], have["protected"]
    if not (original and protected) or original == protected:
        return have
    if group.role == "utility" and len(original) == len(protected) == 1:
        return have  # one set of pictures each: their seeds are the pictures', not an attack's
    shared = sorted(set(original) & set(protected))
    said.append(
        f"{group.metric} of {group.label}: the arms have different seeds (original {original}, "
        f"protected {protected}); "
        + (f"only {shared} are compared" if shared else "they are not compared")
    )
    return {arm: shared for arm in ARMS} if shared else {"original": [], "protected": protected}


def _quantities(group: Group, seeds: dict[Arm, list[int]]) -> dict[Arm, Quantity]:
    samples = {
        arm: [sample_of(group.scores[arm][seed]) for seed in seeds[arm]]
        for arm in ARMS
        if seeds[arm]
    }
    if not samples:
        return {}
    levels = intervals.resample(list(samples.values()), group.draws_from)
    return dict(zip(samples, levels, strict=True))


def _contrasts(
    arms: dict[Arm, Quantity], floor: Quantity | None, better: Better | None, shares: bool = False
) -> dict[str, Interval | None]:
    if len(arms) < 2:
        return {}
    original, protected = arms["original"], arms["protected"]
    found = {"difference": _interval(intervals.difference(protected, original))}
    if floor is not None and better is not None:
        found["cut"] = _interval(intervals.cut(original, protected, floor, better))
    if shares:
        found["kept"] = _interval(intervals.ratio(protected, original))
    return found


def _mean_line(
    measured: list[_Measured], role: LineRole, label: str, floors: dict[str, Quantity]
) -> Line:
    """Over lines that have the same arms."""
    line = measured[0].line
    arms = {arm: intervals.mean([one.arms[arm] for one in measured]) for arm in measured[0].arms}
    known = {arm: [getattr(one.line, arm) for one in measured] for arm in arms}
    estimates = {arm: _summary(arms[arm], known[arm]) for arm in arms}
    return Line(
        role=role,
        label=label,
        metric=line.metric,
        shown_metric=line.shown_metric,
        better=line.better,
        **estimates,
        **_contrasts(
            arms, floors.get(line.metric), line.better, _shares(role, measured[0].meaning)
        ),
    )


def _worst_line(measured: list[_Measured], floors: dict[str, Quantity]) -> list[Line]:
    """In each arm the attack that succeeded best: an attacker chooses after trying all.

    Empty for a metric that takes no side. `measured` have the same arms.
    """
    line = measured[0].line
    if line.better is None:
        return []
    choose = max if line.better == "lower" else min
    worst = {arm: choose(measured, key=lambda one: one.arms[arm].value) for arm in measured[0].arms}
    arms = {arm: one.arms[arm] for arm, one in worst.items()}
    # "The same attack" on the original is the one that is named; on the protected model any is.
    reasons_of = measured if line.protected is None else worst.values()
    return [
        Line(
            role="worst",
            label="worst case",
            metric=line.metric,
            shown_metric=line.shown_metric,
            better=line.better,
            reached_by={arm: one.line.title for arm, one in worst.items()},
            no_value={arm: why for one in reasons_of for arm, why in one.line.no_value.items()},
            **{arm: getattr(one.line, arm) for arm, one in worst.items()},
            **_contrasts(arms, floors.get(line.metric), line.better),
        )
    ]


def _level_lines(
    rows: Sequence[ScoreRow], meanings: Mapping[str, MetricMeaning], role: Role, said: list[str]
) -> list[Line]:
    lines = []
    for group in groups(rows, meanings, role):
        group.label = role
        for one in _measure([group], rows, {}, said):
            lines.append(one.line)
    return lines


def _estimate(group: Group, arm: Arm, seeds: list[int], quantity: Quantity) -> Estimate:
    scores = [group.scores[arm][seed] for seed in seeds]
    ends = _ends(quantity)
    if len(scores) == 1:  # exactly what the metric said, not what the draws make of it
        ends |= {"low": scores[0].low, "high": scores[0].high}
    return Estimate(
        **ends,
        seeds=tuple(seeds),
        per_seed=tuple(score.value for score in scores if score.has_value),
        n=min(score.n for score in scores),
        skipped=sum(score.skipped for score in scores),
        steps=_mean_steps([group.steps[arm].get(seed) for seed in seeds]),
    )


def _mean_steps(steps: Sequence[int | None]) -> float | None:
    known = [one for one in steps if one is not None]
    return sum(known) / len(known) if known and len(known) == len(steps) else None


def _summary(quantity: Quantity, of: Sequence[Estimate]) -> Estimate:
    return Estimate(
        **_ends(quantity),
        seeds=tuple(sorted({seed for estimate in of for seed in estimate.seeds})),
        per_seed=(),
        n=min(estimate.n for estimate in of),
        skipped=sum(estimate.skipped for estimate in of),
    )


def _interval(quantity: Quantity | None) -> Interval | None:
    return None if quantity is None else Interval(**_ends(quantity))


def _ends(quantity: Quantity) -> dict[str, float | None]:
    low, high = quantity.interval or (None, None)
    return {"value": quantity.value, "low": low, "high": high}


def _shares(role: LineRole, meaning: MetricMeaning) -> bool:
    """Whether protected / original means something: for similarities to somebody else."""
    return role in ("neighbour", "neighbours") and meaning.kind == "similarity"
