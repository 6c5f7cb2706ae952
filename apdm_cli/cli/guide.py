"""What a command says at its end: the answer first, then what to type next.

`apdm demo` runs the other commands itself; inside `guided()` they leave their answer and their next
command to it.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from apdm_cli.cli.console import stdout

_GUIDED: ContextVar[bool] = ContextVar("guided", default=False)


@contextmanager
def guided() -> Iterator[None]:
    """Within it, `say_answer` and `say_next` print nothing."""
    token = _GUIDED.set(True)
    try:
        yield
    finally:
        _GUIDED.reset(token)


def is_guided() -> bool:
    """Whether another command runs this one."""
    return _GUIDED.get()


def say_answer(text: str) -> None:
    """The first sentences of a command's result: in plain words, before any number in a table."""
    if not is_guided():
        stdout.print(text, markup=False, highlight=False, style="bold")


def say_next(command: str, root: Path, why: str = "Next") -> None:
    """What to type now, whole. `root` is added where it is not the default."""
    if is_guided():
        return
    where = "" if root == Path("runs") else f" --out {shlex.quote(str(root))}"
    stdout.print(f"{why}: {command}{where}", markup=False, highlight=False, soft_wrap=True)
