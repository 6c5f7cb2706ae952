"""From the rows of scores.json to the lines of the table. Pure: no file is touched."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import get_args

from apdm_cli.report import intervals
from apdm_cli.report.intervals import Quantity, Sample
from apdm_cli.report.pairing import pictures_of, topic_of
from apdm_cli.report.schema import ArmName, Better, Estimate, Interval, Line, LineRole
from apdm_cli.report.scores import ScoreRead, ScoreRow, attack_label
from apdm_cli.report.words import SIMILARITIES, better_for_neighbours

ARMS: tuple[ArmName, ...] = get_args(ArmName)


@dataclass
class _Group:
    """All scores of one attack (or topic, or neighbour) under one metric: arm -> seed -> score."""

    role: LineRole
    label: str
    metric: str
    shown: str
    better: Better
    attack: str | None = None
    variant: str = ""
    scores: dict[ArmName, dict[int, ScoreRead]] = field(
        default_factory=lambda: {arm: {} for arm in ARMS}
    )


@dataclass(frozen=True)
class _Measured:
    """A line and the draws behind it, which summaries go on with."""

    line: Line
    arms: dict[ArmName, Quantity]


def compare_rows(rows: Sequence[ScoreRow]) -> tuple[list[Line], list[str]]:
    """The lines of the table, and sentences about what could not be compared as asked.

    In order: every attack under every metric, then per metric the mean and the worst case over
    attacks, utility, neighbours and their mean, floor and ceiling.
    """
    said: list[str] = []
    floors = _levels(rows, "floor")
    lines: list[Line] = []
    attacks = _measure(_groups(rows, "attack"), rows, floors, said)
    lines += [measured.line for measured in attacks]
    for metric in dict.fromkeys(measured.line.metric for measured in attacks):
        of_metric = [measured for measured in attacks if measured.line.metric == metric]
        lines.append(_mean_line(of_metric, "mean", "mean over attacks", floors))
        lines.append(_worst_line(of_metric, floors))
    lines += [m.line for m in _measure(_groups(rows, "utility"), rows, {}, said)]
    neighbours = _measure(_groups(rows, "neighbour"), rows, {}, said)
    lines += [measured.line for measured in neighbours]
    for metric in dict.fromkeys(measured.line.metric for measured in neighbours):
        of_metric = [measured for measured in neighbours if measured.line.metric == metric]
        lines.append(_mean_line(of_metric, "neighbours", "mean over neighbours", {}))
    for role in ("floor", "ceiling"):
        lines += _level_lines(rows, role)
    return lines, list(dict.fromkeys(said))


def _groups(rows: Sequence[ScoreRow], role: LineRole) -> list[_Group]:
    groups: dict[tuple[str, str], _Group] = {}
    for row in rows:
        if row.role != role:
            continue
        label = attack_label(row.attack, row.variant) if role == "attack" and row.attack else ""
        label = label or topic_of(row)
        for score in row.scores:
            better = score.better
            if role == "neighbour":
                better = better_for_neighbours(score.metric, better)
            shown = score.label or score.metric
            new = _Group(role, label, score.metric, shown, better, row.attack, row.variant)
            group = groups.setdefault((label, score.metric), new)
            group.scores[row.arm][row.seed] = score
    return list(groups.values())


def _measure(
    groups: Iterable[_Group],
    rows: Sequence[ScoreRow],
    floors: dict[str, Quantity],
    said: list[str],
) -> list[_Measured]:
    measured = []
    for group in groups:
        seeds = _seeds(group, said)
        arms = _quantities(group, seeds)
        if not arms:
            said.append(f"{group.metric} of {group.label} has no value: every picture was skipped")
            continue
        line = Line(
            role=group.role,
            label=group.label,
            attack=group.attack,
            variant=group.variant,
            metric=group.metric,
            shown_metric=group.shown,
            better=group.better,
            pictures=pictures_of(group.role, group.label, group.attack, group.variant, rows),
            **{arm: _estimate(group, arm, seeds[arm], arms[arm]) for arm in arms},
            **_contrasts(arms, floors.get(group.metric), _shares(group.role, group.metric)),
        )
        measured.append(_Measured(line, arms))
    return measured


def _seeds(group: _Group, said: list[str]) -> dict[ArmName, list[int]]:
    """The seeds that enter, per arm: those with a value in both arms, where both have any."""
    have = {
        arm: sorted(seed for seed, score in scores.items() if score.value is not None)
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


def _quantities(group: _Group, seeds: dict[ArmName, list[int]]) -> dict[ArmName, Quantity]:
    samples = {
        arm: [_sample(group.scores[arm][seed]) for seed in seeds[arm]] for arm in ARMS if seeds[arm]
    }
    if not samples:
        return {}
    name = f"{group.role}/{group.label}/{group.metric}"
    return dict(zip(samples, intervals.resample(list(samples.values()), name), strict=True))


def _sample(score: ScoreRead) -> Sample:
    assert score.value is not None
    return Sample(score.value, score.low, score.high)


def _contrasts(
    arms: dict[ArmName, Quantity], floor: Quantity | None, shares: bool = False
) -> dict[str, Interval | None]:
    if len(arms) < 2:
        return {}
    original, protected = arms["original"], arms["protected"]
    found = {"difference": _interval(intervals.difference(protected, original))}
    if floor is not None:
        found["cut"] = _interval(intervals.cut(original, protected, floor))
    if shares:
        found["kept"] = _interval(intervals.ratio(protected, original))
    return found


def _mean_line(
    measured: list[_Measured], role: LineRole, label: str, floors: dict[str, Quantity]
) -> Line:
    """Over the lines that have both arms, or over all where none has."""
    both = [one for one in measured if len(one.arms) == 2] or measured
    arms = {
        arm: intervals.mean([one.arms[arm] for one in both if arm in one.arms])
        for arm in ARMS
        if any(arm in one.arms for one in both)
    }
    line = both[0].line
    estimates = {arm: _summary(arms[arm], [getattr(o.line, arm) for o in both]) for arm in arms}
    return Line(
        role=role,
        label=label,
        metric=line.metric,
        shown_metric=line.shown_metric,
        better=line.better,
        **estimates,
        **_contrasts(arms, floors.get(line.metric), _shares(role, line.metric)),
    )


def _worst_line(measured: list[_Measured], floors: dict[str, Quantity]) -> Line:
    """In each arm the attack that succeeded best: an attacker chooses after trying all."""
    better = measured[0].line.better
    worst: dict[ArmName, _Measured] = {}
    for arm in ARMS:
        with_arm = [one for one in measured if arm in one.arms]
        if with_arm:
            choose = max if better == "lower" else min
            worst[arm] = choose(with_arm, key=lambda one: one.arms[arm].value)
    arms = {arm: one.arms[arm] for arm, one in worst.items()}
    return Line(
        role="worst",
        label="worst case",
        metric=measured[0].line.metric,
        shown_metric=measured[0].line.shown_metric,
        better=better,
        reached_by={arm: one.line.label for arm, one in worst.items()},
        **{arm: getattr(one.line, arm) for arm, one in worst.items()},
        **_contrasts(arms, floors.get(measured[0].line.metric)),
    )


def _levels(rows: Sequence[ScoreRow], role: LineRole) -> dict[str, Quantity]:
    """The floor of each metric. Its mean, where several seeds of it were drawn."""
    found = {}
    for group in _groups(rows, role):
        known = [_sample(s) for s in group.scores["original"].values() if s.value is not None]
        if known:
            level = intervals.resample([known], f"{role}/{group.metric}")[0]
            found[group.metric] = level if level.draws is not None else intervals.fixed(level.value)
    return found


def _level_lines(rows: Sequence[ScoreRow], role: LineRole) -> list[Line]:
    lines = []
    for group in _groups(rows, role):
        group.label = role
        for one in _measure([group], rows, {}, []):
            lines.append(one.line)
    return lines


def _estimate(group: _Group, arm: ArmName, seeds: list[int], quantity: Quantity) -> Estimate:
    scores = [group.scores[arm][seed] for seed in seeds]
    ends = _ends(quantity)
    if len(scores) == 1:  # exactly what the metric said, not what the draws make of it
        ends |= {"low": scores[0].low, "high": scores[0].high}
    return Estimate(
        **ends,
        seeds=tuple(seeds),
        per_seed=tuple(score.value for score in scores if score.value is not None),
        n=min(score.n for score in scores),
        skipped=sum(score.skipped for score in scores),
    )


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


def _shares(role: LineRole, metric: str) -> bool:
    """Whether protected / original means something: for similarities to somebody else."""
    return role in ("neighbour", "neighbours") and metric in SIMILARITIES
