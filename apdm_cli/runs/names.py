"""Readable names for runs and cells that are safe as file names on every system."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from apdm_cli.errors import UsageError
from apdm_cli.paths import require_ordinary

_LONGEST = 80
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def slug(text: str, longest: int = _LONGEST) -> str:
    """`text` as lower-case words of ASCII letters and digits joined by `-`; may be empty."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain.lower())[:longest].strip("-")


def default_name(paths: Sequence[Path], class_noun: str) -> str:
    """A run's name from the photos' folder and the class: `photos-person`."""
    first = require_ordinary(paths[0]).resolve()
    folder = first if first.is_dir() else first.parent
    return "-".join(part for part in (slug(folder.name, 40), slug(class_noun, 30)) if part) or "run"


def check_name(name: str, option: str = "--name") -> str:
    """Return `name` when it may be the name of a folder; raises `UsageError` otherwise."""
    bad = (
        not name
        or len(name) > _LONGEST
        or not re.fullmatch(r"[\w][\w.+ -]*", name)
        or name != name.strip(" .")
        or name.endswith(".partial")
        or _RESERVED.fullmatch(name) is not None
        or name.startswith("_")
    )
    if bad:
        shown = repr(name) if len(name) <= _LONGEST else f"{name[:_LONGEST]!r}..."
        raise UsageError(
            f"{option} {shown} cannot be the name of a folder",
            f"Use letters, digits, '-' and '.', at most {_LONGEST}: {slug(name) or 'my-run'!r}.",
        )
    return name
