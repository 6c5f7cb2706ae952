"""`--require`: a small language for what must hold, so that CI can say no. No eval.

    requirement = [quantity "."] scope "." metric ["." end] operator number
    quantity    = "original" | "protected" (the default) | "change" | "cut" | "kept"
    scope       = "worst" | "mean" | "utility" | "neighbours" | "floor" | "ceiling"
                | attack ["/" variant] | "utility/" topic
    end         = "low" | "high"                 of the 95 % interval instead of the value
    operator    = "<=" | "<" | ">=" | ">"

`worst.dino<=0.3`, `original.worst.dino>=0.5`, `cut.worst.dino.low>0.4`,
`dreambooth/unseen-photos.dino<0.4`, `utility.fid<=15`.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from apdm_cli.errors import UsageError
from apdm_cli.report.schema import Interval, Line, Requirement, RunComparison
from apdm_cli.report.words import number, percent
from apdm_cli.runs.names import slug
from apdm_cli.scores import Arm

QUANTITIES = ("original", "protected", "change", "cut", "kept")
SUMMARIES = ("worst", "mean", "utility", "neighbours", "floor", "ceiling")
ENDS = ("low", "high")
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
    ">": operator.gt,
}
_WORD = re.compile(r"[A-Za-z0-9_+-]+(?:/[A-Za-z0-9_+-]+)*(?:\[[A-Za-z0-9_+-]+\])?")
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")
_EXAMPLE = "Write it like worst.dino<=0.3, cut.worst.dino>=0.5 or utility.fid<=15."


@dataclass(frozen=True)
class Expression:
    """A parsed requirement."""

    text: str
    quantity: str
    scope: str
    metric: str
    end: str | None
    operator: str
    bound: float


def parse(text: str) -> Expression:
    """Parse one requirement. Raises `UsageError` that points at the column of the first mistake."""
    words, position = _path(text)
    position = _skip(text, position)
    symbol = next((s for s in _OPERATORS if text.startswith(s, position)), None)
    if symbol is None:
        raise _mistake(text, position, f"expected {', '.join(_OPERATORS)}")
    position = _skip(text, position + len(symbol))
    matched = _NUMBER.match(text, position)
    if matched is None:
        raise _mistake(text, position, "expected a number")
    rest = _skip(text, matched.end())
    if rest < len(text):
        hint = ", with a point in decimals" if text[rest] == "," else ""
        raise _mistake(text, rest, f"expected the end after the number{hint}")
    return Expression(text, *_meaning(text, words), symbol, float(matched.group()))


def check(expression: Expression, run: RunComparison) -> Requirement:
    """Whether it holds in `run`. A score that is not there never holds."""
    line, problem = _find(expression, run)
    value = None if line is None else _value(expression, line)
    if line is None or value is None:
        says = problem or f"{run.name} has no {_path_text(expression)}"
        if line is not None:
            says += f" ({_why_missing(expression)})"
        return Requirement(run=run.name, text=expression.text, held=False, value=None, says=says)
    held = _OPERATORS[expression.operator](value, expression.bound)
    show: Callable[[float], str] = percent if expression.quantity in ("cut", "kept") else number
    if show(value) == show(expression.bound):
        show = repr  # rounding must not show 0.3 where 0.3004 failed
    arm: Arm = "original" if expression.quantity == "original" else "protected"
    reached = line.reached_by.get(arm)
    where = f" ({reached})" if reached else f" ({line.label})" if line.role == "utility" else ""
    says = f"{show(value)}{where}"
    return Requirement(run=run.name, text=expression.text, held=held, value=value, says=says)


def _path(text: str) -> tuple[list[tuple[str, int]], int]:
    """The words between the dots with their positions, and where the path ends."""
    words: list[tuple[str, int]] = []
    position = _skip(text, 0)
    while True:
        matched = _WORD.match(text, position)
        if matched is None:
            raise _mistake(text, position, "expected a name")
        words.append((matched.group(), position))
        position = matched.end()
        if not text.startswith(".", position):
            return words, position
        position += 1


def _meaning(text: str, words: list[tuple[str, int]]) -> tuple[str, str, str, str | None]:
    names = [word for word, _ in words]
    quantity = "protected"
    end = None
    if len(names) > 2 and names[0] in QUANTITIES:
        quantity = names.pop(0)
    if len(names) > 2 and names[-1] in ENDS:
        end = names.pop()
    if len(names) == 1:
        position = words[-1][1] + len(words[-1][0])
        raise _mistake(text, position, "expected a dot and a metric")
    if len(names) > 2:
        # One word too many: the first is no quantity, or the last is no end.
        wrong, known = (words[-1], ENDS) if quantity != "protected" else (words[0], QUANTITIES)
        raise _mistake(text, wrong[1], f"{wrong[0]!r} is none of {', '.join(known)}")
    return quantity, names[0], names[1], end


def _find(expression: Expression, run: RunComparison) -> tuple[Line | None, str]:
    in_scope = _in_scope(expression.scope, run.lines)
    if not in_scope:
        names = _scopes(run.lines)
        near = difflib.get_close_matches(expression.scope, names, n=1)
        meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
        return None, f"{run.name} has no {expression.scope!r} ({meant})"
    of_metric = [line for line in in_scope if line.metric == expression.metric]
    if not of_metric:
        metrics = list(dict.fromkeys(line.metric for line in in_scope))
        near = difflib.get_close_matches(expression.metric, metrics, n=1)
        meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(metrics)}"
        return None, f"{run.name} has no {expression.metric!r} for {expression.scope} ({meant})"
    missing = [line for line in of_metric if _value(expression, line) is None]
    if missing:
        return missing[0], ""
    # Several topics of utility: the one that is furthest from holding.
    choose = max if expression.operator in ("<=", "<") else min
    return choose(of_metric, key=lambda line: _value(expression, line) or 0.0), ""


def _in_scope(scope: str, lines: Sequence[Line]) -> list[Line]:
    if scope in SUMMARIES:
        return [line for line in lines if line.role == scope]
    first, _, rest = scope.partition("/")
    if first == "utility":
        return [line for line in lines if line.role == "utility" and slug(line.label) == rest]
    attacks = [line for line in lines if line.role == "attack"]
    exact = [line for line in attacks if _scope_of(line) == scope]
    if exact or rest:
        return exact
    # Only one variant of it was run: its name alone says which.
    alone = [line for line in attacks if line.attack == scope]
    return alone if len({line.variant for line in alone}) == 1 else []


def _scope_of(line: Line) -> str:
    if line.role == "attack":
        return "/".join(filter(None, (line.attack, slug(line.variant))))
    return f"utility/{slug(line.label)}" if line.role == "utility" else line.role


def _scopes(lines: Sequence[Line]) -> list[str]:
    return list(dict.fromkeys(_scope_of(line) for line in lines if line.role != "neighbour"))


def _value(expression: Expression, line: Line) -> float | None:
    quantity = expression.quantity
    if line.role in ("floor", "ceiling") and quantity == "protected":
        quantity = "original"  # levels have one arm
    field = "difference" if quantity == "change" else quantity
    interval: Interval | None = getattr(line, field)
    return None if interval is None else getattr(interval, expression.end or "value")


def _path_text(expression: Expression) -> str:
    quantity = "" if expression.quantity == "protected" else f"{expression.quantity}."
    end = f".{expression.end}" if expression.end else ""
    return f"{quantity}{expression.scope}.{expression.metric}{end}"


def _why_missing(expression: Expression) -> str:
    if expression.quantity == "cut":
        return "no floor, no control arm, or the attack did not succeed on the original"
    if expression.quantity in ("change", "kept"):
        return "only one arm was scored"
    return "no interval is known" if expression.end else "that arm was not scored"


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _mistake(text: str, position: int, expected: str) -> UsageError:
    shown = "".join(" " if character.isspace() else character for character in text)
    return UsageError(
        f"--require cannot be read at column {position + 1}: {expected}\n"
        f"  {shown}\n  {' ' * position}^",
        _EXAMPLE,
    )
