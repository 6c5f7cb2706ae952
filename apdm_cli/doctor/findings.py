"""What a check reports, and how checks are run so that none can stop the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from apdm_cli.errors import ApdmError


class State(StrEnum):
    """`note` is worth knowing and normal on many machines; only a `problem` wants mending."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        area: which group of checks it belongs to ("packages").
        says: a sentence without the full stop.
        advice: what to do about it, for notes and problems.
        data: the numbers behind it, for --json.
    """

    area: str
    state: State
    says: str
    advice: str = ""
    data: dict[str, Any] = field(default_factory=dict)


Check = Callable[[], Iterable[Finding]]


def run_checks(checks: Sequence[tuple[str, Check]]) -> Iterator[Finding]:
    """The findings of `checks`, one after another; (area, check) each."""
    for area, check in checks:
        try:
            yield from check()
        except ApdmError as error:
            yield Finding(area, State.PROBLEM, error.what.rstrip("."), error.hint)
        except Exception as error:  # a broken installation breaks in ways nobody foresees
            reason = (str(error).strip().splitlines() or [""])[0]
            yield Finding(area, State.PROBLEM, f"{type(error).__name__}: {reason}".rstrip(": "))


def ok(area: str, says: str, **data: Any) -> Finding:
    return Finding(area, State.OK, says, data=data)


def note(area: str, says: str, advice: str = "", **data: Any) -> Finding:
    return Finding(area, State.NOTE, says, advice, data)


def problem(area: str, says: str, advice: str = "", **data: Any) -> Finding:
    return Finding(area, State.PROBLEM, says, advice, data)
