"""`--require`: a small language for what must hold, so that CI can say no. No eval.

    requirement = [quantity "."] scope "." metric ["." end] operator number
                | "work" ["." attack ["/" variant]] ["." end] operator number
    quantity    = "original" | "protected" (the default) | "change" | "cut" | "kept"
    scope       = "worst" | "mean" | "utility" | "neighbours" | "floor" | "ceiling"
                | attack ["/" variant] ["@" budget] | "utility/" topic
    end         = "low" | "high"                 of the 95 % interval instead of the value
    operator    = "<=" | "<" | ">=" | ">"

`worst.dino<=0.3`, `original.worst.dino>=0.5`, `cut.worst.dino.low>0.4`,
`dreambooth/unseen-photos.dino<0.4`, `lora@3.dino<=0.5`, `utility.fid<=15`; `work>=3` (the smallest
work factor over attacks), `work.lora>=2`.
"""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from apdm_cli.errors import UsageError
from apdm_cli.report.schema import Interval, Line, Requirement, RunComparison, WorkFactor
from apdm_cli.report.verdict import followed
from apdm_cli.report.words import number, percent, work_in_words
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
WORK = "work"
_WORD = re.compile(
    r"[A-Za-z0-9_+-]+(?:/[A-Za-z0-9_+-]+)*(?:\[[A-Za-z0-9_+-]+\])?(?:@\d+(?:\.\d+)?)?"
)
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")
_NO_SIDE = "neither direction of this metric protects"
_EXAMPLE = "Write it like work>=3, worst.dino<=0.3, cut.worst.dino>=0.5 or utility.fid<=15."


@dataclass(frozen=True)
class Expression:
    """A parsed requirement. Of a work factor the scope is an attack or empty, the metric empty."""

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
    bound = float(matched.group())
    if not math.isfinite(bound):
        raise _mistake(text, position, "expected a number that a computer can hold")
    return Expression(text, *_meaning(text, words), symbol, bound)


def check(expression: Expression, run: RunComparison) -> Requirement:
    """Whether it holds in `run`. A score that is not there never holds."""
    if expression.quantity == WORK:
        return _check_work(expression, run)
    line, problem = _find(expression, run)
    value = None if line is None else _value(expression, line)
    if line is None or value is None:
        says = problem or f"{run.name} has no {_path_text(expression)}"
        if line is not None:
            says += f" ({_why_missing(expression, line)})"
        return Requirement(run=run.name, text=expression.text, held=False, value=None, says=says)
    held = _OPERATORS[expression.operator](value, expression.bound)
    show: Callable[[float], str] = percent if expression.quantity in ("cut", "kept") else number
    if show(value) == show(expression.bound):
        show = repr  # rounding must not show 0.3 where 0.3004 failed
    arm: Arm = "original" if expression.quantity == "original" else "protected"
    where = line.reached_by.get(arm) or (line.label if line.role == "utility" else "")
    if line.role == "attack" and expression.scope == "worst":
        where = f"{line.title}, which has no score of the original to compare with"
    says = f"{show(value)} ({where})" if where else show(value)
    return Requirement(run=run.name, text=expression.text, held=held, value=value, says=says)


def _check_work(expression: Expression, run: RunComparison) -> Requirement:
    """A work factor counts with the limit that is certain: `>=` with what it is at least.

    Of several attacks `>=` has to hold for each, and `<=` for one: an attacker takes the cheapest.
    """
    works, problem = _find_works(expression.scope, run)
    if not works:
        return Requirement(run=run.name, text=expression.text, held=False, value=None, says=problem)
    holds = [(_work_holds(expression, one), _limit(expression, one), one) for one in works]
    every = all if expression.operator in (">=", ">") else any
    held = every(each for each, _, _ in holds)
    decisive = [(limit, one) for each, limit, one in holds if each == held]
    value, found = min(decisive, key=lambda one: one[0])
    says = f"{found.label}: {work_in_words(found)}"
    if expression.end is not None and found.interval is None:
        says += ", no interval is known"
    known = value if math.isfinite(value) else None
    return Requirement(run=run.name, text=expression.text, held=held, value=known, says=says)


def _work_holds(expression: Expression, one: WorkFactor) -> bool:
    value = _limit(expression, one)
    # "More than 3" is more than 3: a curve that never comes to the likeness needs more steps.
    above = one.known is not None and not one.known.exact and one.protected.high is None
    if expression.operator == ">" and above and value == expression.bound:
        return True
    return _OPERATORS[expression.operator](value, expression.bound)


def _limit(expression: Expression, one: WorkFactor) -> float:
    """The end that the requirement looks at; infinite where it is not known, so as not to hold."""
    at_least = expression.operator in (">=", ">")
    low = at_least if expression.end is None else expression.end == "low"
    limits = one.known if expression.end is None else one.interval
    end = None if limits is None else limits.low if low else limits.high
    if end is None:
        return -math.inf if at_least else math.inf
    return end


def _find_works(scope: str, run: RunComparison) -> tuple[list[WorkFactor], str]:
    """Work factors of an attack, or of all; what to say where none is known."""
    if not followed(run.work):
        return [], f"{run.name} has no work factor: attack it with several --budgets"
    works = followed(run.work)
    if scope:
        named = [one for one in works if _work_scope(one) == scope]
        alone = [one for one in works if one.attack == scope]
        works = named or (alone if len(alone) == 1 else [])
        if not works:
            names = ", ".join(dict.fromkeys(map(_work_scope, followed(run.work))))
            return [], f"{run.name} has no work factor of {scope!r} (there are {names})"
    counted = [one for one in works if one.known]
    return counted, "; ".join(f"{one.label}: {one.why_not}" for one in works)


def _work_scope(one: WorkFactor) -> str:
    return "/".join(filter(None, (one.attack, slug(one.variant))))


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
    if names[0] == WORK:
        if names[-1] in ENDS:
            end = names.pop()
        if len(names) > 2:
            raise _mistake(text, words[2][1], f"{words[2][0]!r} is none of {', '.join(ENDS)}")
        return WORK, ".".join(names[1:]), "", end
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
    if expression.scope == "worst" and any(
        (line.role, line.metric, line.better) == ("attack", expression.metric, None)
        for line in run.lines
    ):
        return None, f"{run.name} has no worst case of {expression.metric!r} ({_NO_SIDE})"
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
    # Several topics of utility: the one that is furthest from holding.
    choose = max if expression.operator in ("<=", "<") else min
    if (expression.scope, expression.quantity) == ("worst", "protected"):
        choose = max if of_metric[0].better == "lower" else min
        of_metric += _left_out(of_metric[0], run.lines)
    missing = [line for line in of_metric if _value(expression, line) is None]
    if missing:
        return missing[0], ""
    return choose(of_metric, key=lambda line: _value(expression, line) or 0.0), ""


def _left_out(worst: Line, lines: Sequence[Line]) -> list[Line]:
    """Attacks that have no score of the original at their own steps, as `worst` has.

    They can't enter the table's worst case; but what they reach is reached, with or without one.
    """
    if worst.lacks:
        return []
    protected = (
        line
        for line in lines
        if (line.role, line.metric) == ("attack", worst.metric) and line.protected
    )
    nearest = sorted(protected, key=lambda line: -abs(math.log(line.budget)))
    return [line for line in {one.label: one for one in nearest}.values() if line.lacks]


def _in_scope(scope: str, lines: Sequence[Line]) -> list[Line]:
    if scope in SUMMARIES:
        return [line for line in lines if line.role == scope]
    first, _, rest = scope.partition("/")
    if first == "utility":
        return [line for line in lines if line.role == "utility" and slug(line.label) == rest]
    scope, at, budget = scope.partition("@")
    attacks = [line for line in lines if line.role == "attack"]
    attacks = [line for line in attacks if line.budget == (float(budget) if at else 1)]
    first, _, rest = scope.partition("/")
    exact = [line for line in attacks if _scope_of(line).partition("@")[0] == scope]
    if exact or rest:
        return exact
    # Only one variant of it was run: its name alone says which.
    alone = [line for line in attacks if line.attack == scope]
    return alone if len({line.variant for line in alone}) == 1 else []


def _scope_of(line: Line) -> str:
    if line.role == "attack":
        budget = "" if line.budget == 1 else f"@{line.budget:g}"
        return "/".join(filter(None, (line.attack, slug(line.variant)))) + budget
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


def _why_missing(expression: Expression, line: Line) -> str:
    if expression.quantity == "cut" and line.better is None:
        return _NO_SIDE
    if expression.quantity in ("cut", "change", "kept") and line.lacks:
        return "only one arm was scored"
    if expression.quantity == "cut":
        return "no floor, or the attack did not succeed on the original"
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
