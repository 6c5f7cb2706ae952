"""How numbers and directions are put into words, for terminal, Markdown and report alike."""

from __future__ import annotations

from collections.abc import Callable

from apdm_cli.report.schema import Interval, Line, Metric


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
