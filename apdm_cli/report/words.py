"""How numbers and directions are put into words, for terminal, Markdown and report alike."""

from __future__ import annotations

import math
from collections.abc import Callable

from apdm_cli.report.schema import Interval, Limits, Line, Metric, WorkFactor


def number(value: float | None, like: float | None = None) -> str:
    """0.31, 12.3, 250: as many decimals as make sense for `like` (default: for itself)."""
    if value is None:
        return "–"
    size = abs(value if like is None else like)
    places = 2 if size < 10 else 1 if size < 100 else 0
    text = f"{value:.{places}f}"
    return text.lstrip("-") if _is_zero(text) else text.replace("-", "−")


def signed(value: float | None, like: float | None = None) -> str:
    """A difference, with its sign."""
    text = number(value, like)
    return text if value is None or text[0] == "−" or _is_zero(text) else f"+{text}"


def percent(value: float | None, like: float | None = None) -> str:
    """`0.534` as 53 %."""
    del like  # always whole percents
    return "–" if value is None else f"{round(100 * value)} %".replace("-", "−")


def with_interval(interval: Interval | None, show: Callable[..., str] = number) -> str:
    """`0.31 [0.25, 0.37]` or `83 % [70, 91]`; only the number where no interval is known."""
    if interval is None:
        return "–"
    if interval.low is None or interval.high is None:
        return show(interval.value)
    ends = (show(end, interval.value).removesuffix(" %") for end in (interval.low, interval.high))
    return f"{show(interval.value)} [{', '.join(ends)}]"


def multiple(value: float) -> str:
    """How many times: `0.8`, `3.8`, `5`, `12`."""
    return f"{value:.1f}".removesuffix(".0") if value < 10 else f"{value:.0f}"


def at_least(value: float) -> str:
    """`multiple` of a lower limit, never rounded up to more than is known."""
    return multiple(_outwards(value, math.floor))


def at_most(value: float | None) -> str:
    """`multiple` of an upper limit, never rounded down; ∞ where there is none."""
    return "∞" if value is None else multiple(_outwards(value, math.ceil))


def _outwards(value: float, towards: Callable[[float], int]) -> float:
    scale = 10 if value < 10 else 1
    return towards(round(value * scale, 6)) / scale  # 3 is 3, also where it is 2.9999999


def plain_steps(steps: float) -> str:
    """`1 step`, `150 steps`."""
    return "1 step" if steps == 1 else f"{steps:.0f} steps"


_PLURALS = {"person": "people", "man": "men", "woman": "women", "child": "children"}


def plural(noun: str) -> str:
    """Several of a class noun: people, dogs, boxes, babies."""
    if noun in _PLURALS:
        return _PLURALS[noun]
    if noun.endswith(("s", "x", "ch", "sh")):
        return f"{noun}es"
    return f"{noun[:-1]}ies" if noun.endswith("y") and noun[-2:-1] not in "aeiou" else f"{noun}s"


def work_in_words(one: WorkFactor) -> str:
    """`5 [3.8, 6.1]`, `more than 3`, `at most 1.4`; the reason where it is not counted."""
    if one.factor is None:
        return one.why_not
    if one.factor.exact:
        ends = one.interval
        shown = f" [{at_least(ends.low)}, {at_most(ends.high)}]" if ends else ""
        return multiple(one.factor.low) + shown
    known = one.known or one.factor
    if known.low > 0 and known.high is not None:
        return f"{at_least(known.low)} to {at_most(known.high)}"
    if known.low > 0:
        return f"{'more than' if one.protected.high is None else 'at least'} {at_least(known.low)}"
    return "unknown" if known.high is None else f"at most {at_most(known.high)}"


def steps_in_words(limits: Limits) -> str:
    """`about 34`, `at most 25`, `more than 150` steps."""
    if limits.exact:
        return f"about {limits.low:.0f}"
    if limits.high is None:
        return f"more than {limits.low:.0f}"
    return f"at most {limits.high:.0f}"


def _is_zero(text: str) -> bool:
    return not text.strip("-0.")


def verdict_on(line: Line) -> str:
    """`better`, `worse` or ``: what the difference does, only where its interval excludes zero."""
    if line.better is None or line.difference is None or not line.difference.excludes_zero:
        return ""
    fell = line.difference.value < 0
    return "better" if fell == (line.better == "lower") else "worse"


def direction(line: Line, metric: Metric) -> str:
    """`lower is better`, said for whom."""
    if line.better is None:
        return f"neither direction protects; {metric.collapse}"
    whom = "" if line.role in ("utility", "neighbour", "neighbours") else " for the subject"
    return f"{line.better} is better{whom}"
