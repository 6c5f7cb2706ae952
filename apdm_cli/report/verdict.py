"""One sentence that says what the numbers show, and no more than they show."""

from __future__ import annotations

from collections.abc import Sequence

from apdm_cli.report.schema import Line
from apdm_cli.report.words import SIMILARITIES, number, percent, with_interval


def verdict(lines: Sequence[Line]) -> str:
    """The sentence over the worst case over attacks, with the price in utility where measured."""
    worst = primary(lines, "worst")
    if worst is None:
        return "No similarity to the subject was measured, so nothing is said about the protection."
    price = _price(lines)
    return _protection(worst, lines) + (f"; {price}." if price else ".")


def primary(lines: Sequence[Line], role: str) -> Line | None:
    """The line of `role` under the similarity that counts: dino where it is there."""
    of_role = {line.metric: line for line in reversed(lines) if line.role == role}
    return next((of_role[metric] for metric in SIMILARITIES if metric in of_role), None)


def _protection(worst: Line, lines: Sequence[Line]) -> str:
    if worst.protected is None:
        return "No attack on the protected model was scored, so nothing is said about it"
    floor = primary(lines, "floor")
    floor_value = floor.original.value if floor and floor.original else None
    reached = f"reaches similarity {with_interval(worst.protected)} to the subject"
    if worst.original is None:
        return (
            f"{_attacker(worst, lines)} {reached} on the protected model; without the same attack "
            "on the original this shows nothing, the attack may simply be weak"
        )
    level = "" if floor_value is None else f" (floor {number(floor_value)})"
    against = f"against {number(worst.original.value)} on the original{level}"
    if floor_value is not None and worst.cut is None:
        return (
            f"The attack did not clearly succeed on the original ({number(worst.original.value)}, "
            f"floor {number(floor_value)}), so {with_interval(worst.protected)} on the protected "
            "model shows nothing"
        )
    sentence = f"{_attacker(worst, lines)} {reached} on the protected model, {against}: "
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
    count = len({line.label for line in lines if line.role == "attack"})
    attack = worst.reached_by.get("protected", "attack")
    return f"The strongest of {count} attacks, {attack}," if count > 1 else f"The {attack} attack"


def _price(lines: Sequence[Line]) -> str:
    """What it cost everybody else, as far as that was measured."""
    said = []
    distance = next(
        (line for line in lines if line.role == "utility" and line.metric.startswith("fid")), None
    )
    if distance and distance.protected:
        between = (
            f" (two seeds of the original: {number(distance.original.value)})"
            if distance.original
            else ""
        )
        said.append(
            f"{distance.label} moved by {distance.shown_metric} {number(distance.protected.value)}"
            f"{between}"
        )
    neighbours = primary(lines, "neighbours")
    if neighbours and neighbours.kept:
        said.append(f"other subjects can still be taught {percent(neighbours.kept.value)} as well")
    return "; ".join(said)
