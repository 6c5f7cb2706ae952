"""What the numbers show, and no more than that: the answer, and the numbers behind it."""

from __future__ import annotations

from collections.abc import Sequence

from apdm_cli.report.arms import ArmWords, Protects, words_for
from apdm_cli.report.schema import (
    Interval,
    Likeness,
    Limits,
    Line,
    LineRole,
    Metric,
    WorkFactor,
)
from apdm_cli.report.words import (
    at_least,
    at_most,
    multiple,
    number,
    percent,
    plain_steps,
    plural,
    with_interval,
    work_in_words,
)

NOT_SAID = "No similarity to the subject was measured, so nothing is said about the protection."


def answer(
    lines: Sequence[Line],
    metrics: Sequence[Metric],
    works: Sequence[WorkFactor] = (),
    class_noun: str = "",
    protects: Protects = "model",
) -> str:
    """What the user wants to know, in plain words with one number and its uncertainty.

    The first sentence is about the attacker: the smallest work factor over attacks where attacks
    were looked at more than once, else the share of the strongest one's gain that is gone. The
    last is about everybody else's pictures. Neither claims more than its interval allows. Between
    them stands which attacks were left out because a side of theirs has no score.
    """
    arms = words_for(protects)
    attacker = _attacker_sentence(lines, metrics, works, arms)
    others = _others_sentence(lines, metrics, class_noun, arms)
    return " ".join(filter(None, (attacker, _left_out(lines, metrics, arms), others)))


def verdict(
    lines: Sequence[Line],
    metrics: Sequence[Metric],
    works: Sequence[WorkFactor] = (),
    likeness: Likeness | None = None,
    protects: Protects = "model",
) -> str:
    """The numbers behind the answer: work factors, the worst case over attacks, the price."""
    arms = words_for(protects)
    worst = primary(lines, metrics, "worst")
    if worst is None:
        return NOT_SAID
    price = arms.unchanged or _price(lines, metrics)
    numbers = _protection(worst, lines, arms) + (f"; {price}." if price else ".")
    return " ".join(filter(None, (_works(works, likeness), numbers)))


def smallest(works: Sequence[WorkFactor]) -> WorkFactor | None:
    """The attack that is cheapest for all that is known: lower limits count.

    Of equal ones the one that did get a likeness. Attacks that do not clearly succeed on the
    original are not counted; None where none is left.
    """
    return min((one for one in works if one.known), key=_cost, default=None)


def _cost(one: WorkFactor) -> tuple[float, float]:
    assert one.known is not None
    return one.known.low, float("inf") if one.known.high is None else one.known.high


def followed(works: Sequence[WorkFactor]) -> list[WorkFactor]:
    """Those that were looked at more than once: only they have a curve to speak of."""
    return [one for one in works if one.stops > 1]


def _attacker_sentence(
    lines: Sequence[Line], metrics: Sequence[Metric], works: Sequence[WorkFactor], arms: ArmWords
) -> str:
    if not any(line.role == "attack" for line in lines):
        return "No attack was scored, so nothing is said about the protection."
    works = followed(works)
    cheapest = smallest(works)
    if cheapest is not None and cheapest.factor is not None:
        count = sum(one.factor is not None for one in works)
        return _work_sentence(cheapest, cheapest.factor, count, arms)
    worst = primary(lines, metrics, "worst")
    if worst is None:
        return (
            "Nothing can be said about the protection: no similarity to the subject was measured."
        )
    if worst.protected is None:
        if why := worst.no_value.get("protected"):
            return (
                f"Nothing can be said about the protection: the attack {arms.on_protected} has no "
                f"score, because {why}."
            )
        return (
            f"Nothing can be said about the protection: no attack {arms.on_protected} was scored."
        )
    if worst.original is None:
        if why := worst.no_value.get("original"):
            return (
                "Nothing can be said about the protection: the same attack "
                f"{arms.on_original} has no score to compare with, because {why}."
            )
        return (
            "Nothing can be said about the protection yet: without the same attack "
            f"{arms.on_original}, the attack may simply be weak."
        )
    if worst.cut is None and _floor(worst, lines) is not None:
        return (
            "Nothing can be said about the protection: the attack does not clearly get a likeness "
            f"from {arms.of_original} either."
        )
    return _share_sentence(worst, lines, arms)


def _work_sentence(one: WorkFactor, factor: Limits, count: int, arms: ArmWords) -> str:
    """About the smallest work factor of `count` attacks."""
    known = one.interval or factor
    low, high = known.low, known.high
    aim = "to get a likeness"
    way = f"{aim}; the cheapest way in was {one.label}" if count > 1 else f"{aim} ({one.label})"
    if factor.exact:
        times = multiple(factor.low)
        if one.interval is None:
            return (
                f"An attacker needs about {times} times as many steps {way}; no interval is known."
            )
        ends = (
            f"({at_least(low)} or more)" if high is None else f"({at_least(low)}–{at_most(high)})"
        )
        if high is not None and high < 1:
            return (
                f"The protection makes it easier: {times} times the steps {ends} are enough {way}."
            )
        certain = "An attacker" if low > 1 else "The protection has no certain effect: an attacker"
        return f"{certain} needs about {times} times as many steps {ends} {way}."
    if low > 1 and one.protected.high is None:
        tried = (
            f"of the {count} attacks, {one.label} leaves most open"
            if count > 1
            else f"{one.label} was followed no further"
        )
        return f"An attacker needs more than {at_least(low)} times as many steps {aim}; {tried}."
    if low > 1:
        return f"An attacker needs at least {at_least(low)} times as many steps {way}."
    if factor.low == 0 and factor.high is not None and high is not None:
        return f"An attacker needs at most {at_most(high)} times as many steps {way}."
    if factor.low == 0 and one.protected.high is not None:
        return (
            f"An attacker gets a likeness from {arms.of_protected} within "
            f"{plain_steps(one.protected.high)}, the first time that {one.label} was looked at; "
            f"how many more that is than {arms.on_original} cannot be told."
        )
    return (
        "The protection has no certain effect: an attacker may need no more steps than "
        f"{arms.on_original} {way}."
    )


def _share_sentence(worst: Line, lines: Sequence[Line], arms: ArmWords) -> str:
    """Where attacks were looked at once: what of the strongest one's gain is gone."""
    difference, cut = worst.difference, worst.cut
    strongest = _attacker(worst, lines)
    if difference is None or difference.low is None:
        return "Nothing is certain about the protection: the scores have no intervals."
    if not difference.excludes_zero:
        return (
            f"No effect of the protection can be told from chance: {_lower(strongest)} does as "
            f"well {arms.on_protected} as {arms.on_original}."
        )
    if difference.value > 0:
        return (
            f"The protection makes it easier: {_lower(strongest)} does better than "
            f"{arms.on_original}."
        )
    if cut is None:
        return (
            f"The protection makes the attacker's pictures less like the subject (by "
            f"{number(-difference.value)} in similarity); how much of the attack that is, cannot "
            "be told without a floor."
        )
    strongest = _strongest(worst, lines)
    return f"The protection takes away {_share(cut)} of what an attacker gains; {strongest}"


def _share(cut: Interval) -> str:
    if cut.low is None or cut.high is None:
        return f"about {percent(cut.value)}"
    ends = f"{round(100 * cut.low)}–{round(100 * cut.high)}".replace("-", "−")
    return f"about {percent(cut.value)} ({ends})"


def _strongest(worst: Line, lines: Sequence[Line]) -> str:
    count = _compared(worst, lines)
    attack = worst.reached_by.get("protected", "the attack")
    return f"the strongest of {count} attacks was {attack}." if count > 1 else f"it was {attack}."


def _compared(worst: Line, lines: Sequence[Line]) -> int:
    """Over how many attacks the worst case is taken."""
    return len({one.label for one in _attacks(worst, lines) if one.lacks == worst.lacks})


def _left_out(lines: Sequence[Line], metrics: Sequence[Metric], arms: ArmWords) -> str:
    """Which attacks do not enter the worst case, because others have a score on both sides."""
    worst = primary(lines, metrics, "worst")
    if worst is None:
        return ""
    attacks = _attacks(worst, lines)
    entered = {one.label for one in attacks if one.lacks == worst.lacks}
    out = {one.label: one.lacks for one in attacks if one.label not in entered}
    return " ".join(
        f"Left out, with no score {where}: {', '.join(labels)}."
        for missing, where in (
            (1, f"{arms.on_original} to compare with"),
            (2, arms.on_protected),
        )
        if (labels := [label for label, lacks in out.items() if lacks == missing])
    )


def _attacks(worst: Line, lines: Sequence[Line]) -> list[Line]:
    return [one for one in lines if (one.role, one.metric) == ("attack", worst.metric)]


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:].rstrip(",")


def _others_sentence(
    lines: Sequence[Line], metrics: Sequence[Metric], class_noun: str, arms: ArmWords
) -> str:
    """Whether ordinary pictures changed by more than two samples of one model differ."""
    if arms.unchanged:
        return f"{arms.unchanged.capitalize()}, and stays for everybody else what it was."
    line = distance_line(lines, metrics)
    if line is None or line.protected is None:
        return ""
    what = f"pictures of {plural(class_noun)}" if class_noun else "class pictures"
    if line.original is None or line.difference is None or line.difference.low is None:
        return f"Whether ordinary {what} changed is not certain."
    if not line.difference.excludes_zero:
        return f"Ordinary {what} are unchanged within noise."
    if (line.difference.value > 0) == (line.better == "lower"):
        return f"Ordinary {what} did change, by more than noise."
    return f"Ordinary {what} did not get worse."


def _works(works: Sequence[WorkFactor], likeness: Likeness | None) -> str:
    """`Work factors at a likeness of dino 0.45 (...): lora 5 [3.8, 6.1], heal more than 6.`"""
    works = followed(works)
    if not works or likeness is None:
        return ""
    counted = sorted((one for one in works if one.factor), key=_cost)
    said = [f"{one.label} {work_in_words(one)}" for one in counted]
    left = [f"{one.label} is not counted ({one.why_not})" for one in works if not one.factor]
    return f"Work factors {aimed_at(likeness)}: {', '.join([*said, *left])}."


def aimed_at(likeness: Likeness) -> str:
    """`at a likeness of 0.45 in dino, halfway between floor and ceiling`."""
    origin = ", halfway between floor and ceiling" if likeness.halfway else ""
    return f"at a likeness of {number(likeness.value)} in {likeness.metric}{origin}"


def primary(lines: Sequence[Line], metrics: Sequence[Metric], role: LineRole) -> Line | None:
    """The line of `role` under the metric that leads: the first that may and has such a line."""
    of_role = {line.metric: line for line in reversed(lines) if line.role == role}
    leading = (metric.metric for metric in metrics if metric.leads)
    return next((of_role[name] for name in leading if name in of_role), None)


def distance_line(lines: Sequence[Line], metrics: Sequence[Metric]) -> Line | None:
    """How far class pictures moved: the first distance between sets that utility has."""
    distances = {metric.metric for metric in metrics if metric.kind == "distance"}
    utility = (line for line in lines if line.role == "utility")
    return next((line for line in utility if line.metric in distances), None)


def _floor(worst: Line, lines: Sequence[Line]) -> float | None:
    floor = next((one for one in lines if (one.role, one.metric) == ("floor", worst.metric)), None)
    return floor.original.value if floor and floor.original else None


def _protection(worst: Line, lines: Sequence[Line], arms: ArmWords) -> str:
    if worst.protected is None:
        reason = worst.no_value.get("protected")
        so = f"because {reason}: nothing" if reason else "so nothing"
        return f"No attack {arms.on_protected} was scored, {so} is said about the protection"
    floor_value = _floor(worst, lines)
    reached = f"reaches similarity {with_interval(worst.protected)} to the subject"
    if worst.original is None:
        if why := worst.no_value.get("original"):
            return (
                f"{_attacker(worst, lines)} {reached} {arms.on_protected}; this shows nothing, "
                f"because the same attack {arms.on_original} has no score: {why}"
            )
        return (
            f"{_attacker(worst, lines)} {reached} {arms.on_protected}; without the same attack "
            f"{arms.on_original} this shows nothing, the attack may simply be weak"
        )
    level = "" if floor_value is None else f" (floor {number(floor_value)})"
    against = f"against {number(worst.original.value)} {arms.on_original}{level}"
    if floor_value is not None and worst.cut is None:
        return (
            f"The attack did not clearly succeed {arms.on_original} "
            f"({number(worst.original.value)}, floor {number(floor_value)}), so "
            f"{with_interval(worst.protected)} {arms.on_protected} shows nothing"
        )
    sentence = f"{_attacker(worst, lines)} {reached} {arms.on_protected}, {against}: "
    difference = worst.difference
    if difference is None or difference.low is None:
        return sentence + "without an interval this may be chance"
    if not difference.excludes_zero:
        return sentence + "no difference that could not be chance"
    if difference.value > 0:
        return sentence + "the protection made it easier"
    if worst.cut is None:
        return sentence + f"{number(-difference.value)} less"
    return sentence + f"{with_interval(worst.cut, percent)} of what it gained is gone"


def _attacker(worst: Line, lines: Sequence[Line]) -> str:
    count = _compared(worst, lines)
    attack = worst.reached_by.get("protected", "attack")
    if count > 1:
        return f"The strongest of {count} attacks, {attack},"
    return f"The attack {attack}," if attack.endswith("× the steps") else f"The {attack} attack"


def _price(lines: Sequence[Line], metrics: Sequence[Metric]) -> str:
    """What it cost everybody else, as far as that was measured."""
    said = []
    distance = distance_line(lines, metrics)
    if distance and distance.protected:
        value = f"{distance.shown_metric} {number(distance.protected.value)}"
        seeds = (
            f"two seeds of the original: {number(distance.original.value)}"
            if distance.original
            else "nothing to hold it against"
        )
        said.append(f"{distance.label} {moved(distance)} ({value}; {seeds})")
    neighbours = primary(lines, metrics, "neighbours")
    if neighbours and neighbours.kept:
        said.append(f"other subjects can still be taught {percent(neighbours.kept.value)} as well")
    return "; ".join(said)


def moved(distance: Line) -> str:
    """`unchanged within noise`, `changed`, or that it is not known."""
    difference = distance.difference
    if difference is None or difference.low is None:
        return "may have changed"
    if not difference.excludes_zero:
        return "are unchanged within noise"
    worse = (difference.value > 0) == (distance.better == "lower")
    return "changed by more than noise" if worse else "did not get worse"
