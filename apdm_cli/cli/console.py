"""Everything the commands print goes through here: results to stdout, talk to stderr."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TextIO

from pydantic import BaseModel
from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment

from apdm_cli.cli.progress import Bar, Display, open_progress
from apdm_cli.errors import ApdmError, stopped
from apdm_cli.extension.containment import prints_to_stderr
from apdm_cli.runs.jsonable import jsonable
from apdm_cli.visible import json_escaped, visible


class VisibleConsole(Console):
    """A console that spells out control characters instead of sending them to the terminal.

    Every renderable passes through `render` (text, tables, live displays), so that a file name or
    a plugin's error can neither move the cursor nor turn the reading direction. Rich's own
    control codes are marked as such and stay.
    """

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield segment._replace(text=visible(segment.text, lines=True))


# Without emoji: `photos/rex:dog:xyz` is an option's value, and no picture of a dog.
stdout = VisibleConsole(emoji=False)
stderr = VisibleConsole(stderr=True, emoji=False)

__all__ = [
    "Bar",
    "answer_alone",
    "display",
    "note",
    "print_answer",
    "print_error",
    "print_json",
    "progress",
    "stderr",
    "stdout",
    "warn",
]


def display(say: Callable[[str], None] | None = None) -> Display:
    """A context manager that shows the stages of a command on stderr: a `Progress`.

    A live line where both stdout and stderr are terminals, otherwise a plain line every 30 seconds.

    Args:
        say: prints what the user should know; without it as notes.
    """
    return Display(stderr, live=stdout.is_terminal and stderr.is_terminal, say=say)


def progress(total: int | None, description: str) -> Bar:
    """A context manager that shows how far a loop is, on stderr.

        with progress(total=steps, description="Protecting") as bar:
            for step in loop:
                bar.advance(loss=step.loss, drift=0.01)

    A live bar where both stdout and stderr are terminals, otherwise a plain line every 30 seconds.
    """
    return open_progress(stderr, total, description, live=stdout.is_terminal and stderr.is_terminal)


@contextlib.contextmanager
def answer_alone() -> Iterator[None]:
    """Let nothing but `print_answer` reach stdout: what else is printed, by anybody, is talk.

    Plugins and libraries print in Python; what they start, and C code, into descriptor 1.
    """
    answer = sys.stdout
    with _own_descriptor(answer) as kept, prints_to_stderr():
        _answers.append(kept)
        try:
            yield
        finally:
            _answers.pop()


@contextlib.contextmanager
def _own_descriptor(stream: TextIO) -> Iterator[TextIO]:
    """`stream`, through a descriptor of its own where it writes into 1."""
    try:
        shared = stream.fileno() == 1
    except (OSError, ValueError):  # a stream in memory
        shared = False
    if not shared:
        yield stream
        return
    stream.flush()
    with open(os.dup(1), "w", encoding=stream.encoding, errors=stream.errors) as own:
        yield own


_answers: list[TextIO] = []  # where `print_answer` writes, within `answer_alone`


def print_json(payload: Mapping[str, Any] | BaseModel) -> None:
    """Write `payload` to stdout as one JSON object: what `--json` promises, and nothing else.

    Paths become strings, pydantic models and dataclasses objects, NaN and infinities null.
    Characters that a terminal would obey are written as JSON's own escapes.
    """
    text = json.dumps(jsonable(payload), indent=2, ensure_ascii=False, allow_nan=False)
    print_answer(json_escaped(text) + "\n")


def print_answer(text: str) -> None:
    """Write `text` to stdout as it stands, for a program that reads it."""
    stream = _answers[-1] if _answers else sys.stdout
    stream.write(text)
    stream.flush()


def print_error(error: ApdmError) -> None:
    """One short block on stderr: what happened, then what to do."""
    _print_block("Error", "bold red", error.what, error.hint)


def warn(what: str, hint: str = "") -> None:
    """One short block on stderr about something that was worked around."""
    _print_block("Warning", "bold yellow", what, hint)


def note(sentence: str) -> None:
    """One sentence on stderr that the user should know, and need do nothing about."""
    stderr.print(f"Note: {stopped(sentence)}", soft_wrap=True, highlight=False, markup=False)


def _print_block(label: str, style: str, what: str, hint: str) -> None:
    # Soft wrap: a path stays in one piece when the terminal is narrow or the output is a file.
    lines = [f"[{style}]{label}:[/] {escape(stopped(what))}"]
    if hint:
        lines.append(f"[dim]{escape(hint)}[/]")
    for line in lines:
        stderr.print(line, soft_wrap=True, highlight=False)
