"""Prompt sets: text files with one prompt a line, in which {} stands for the subject."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from apdm_cli.errors import UsageError

SLOT = "{}"
SETS = ("identity", "object", "diverse")


def load_prompts(name: str, option: str = "--prompts") -> tuple[str, ...]:
    """The prompts of a set (identity, object, diverse) or of a UTF-8 text file.

    Empty lines and lines that start with # do not count. A line without {} is used as it is.

    Raises:
        UsageError: neither a set nor a file, not UTF-8, or no prompt in it.
    """
    if name in SETS:
        return _lines(_data(f"{name}.txt").read_text(encoding="utf-8"))
    path = Path(name).expanduser()
    try:
        if not path.is_file():
            raise _neither(option, name)
        prompts = _lines(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{option} {name}: not UTF-8 (byte {error.start})", "Save the file as UTF-8."
        ) from error
    except OSError as error:
        raise UsageError(
            f"{option} {name}: cannot be read ({error.strerror})",
            "Check that it is still there, and its permissions.",
        ) from error
    if not prompts:
        raise UsageError(f"{option} {name}: no prompt in it", "Write one prompt a line.")
    return prompts


def spread(templates: Sequence[str], count: int) -> list[str]:
    """`count` prompts in blocks: 30 of two templates are 15 of the one, then 15 of the other."""
    return [templates[i * len(templates) // count] for i in range(count)]


def fill(templates: Sequence[str], subject: str) -> list[str]:
    """Put "sks person", or the class noun alone, into every template."""
    return [template.replace(SLOT, subject) for template in templates]


def neighbour_classes(class_noun: str) -> tuple[str, ...]:
    """Classes beside `class_noun`, for utility."""
    table = tomllib.loads(_data("neighbours.toml").read_text(encoding="utf-8"))
    return tuple(name for name in table.get(class_noun, table["other"]) if name != class_noun)


def _neither(option: str, name: str) -> UsageError:
    close = difflib.get_close_matches(name, SETS, n=1)
    meant = f" Did you mean {close[0]}?" if close else ""
    return UsageError(
        f"{option} {name}: neither a prompt set nor a file.{meant}",
        f"Sets: {', '.join(SETS)}; or a text file with one prompt a line.",
    )


def _data(name: str) -> Traversable:
    return resources.files("apdm_cli.evaluation").joinpath("prompt_sets", name)


def _lines(text: str) -> tuple[str, ...]:
    lines = (line.strip() for line in text.splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))
