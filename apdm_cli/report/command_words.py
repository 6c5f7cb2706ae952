"""Words of the commands that repeat a run: options, and names in the place of folders."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from apdm_cli.runs.run import Run

PHOTOS, OTHER_PHOTOS, NEIGHBOURS = "PHOTOS", "OTHER_PHOTOS", "PHOTOS_OF_SOMEBODY_ELSE"


def plugin_file(cell: Mapping[str, Any]) -> str | None:
    """Name of the Python file that brought the attack, where no installed package did."""
    name = str((cell.get("plugin") or {}).get("plugin"))
    return name if name.endswith(".py") else None


def option(name: str, value: Any, default: Any = None) -> list[str]:
    """`--name value` as a shell reads it; nothing where it is the default, or not known."""
    return [] if value is None or value == default else [name, shlex.quote(str(value))]


def typed(verb: str, run: Run, *options: str) -> str:
    """`apdm VERB RUN OPTIONS` as a person types it where this process runs, for a hint."""
    root = run.path.parent
    name = "/".join(filter(None, (run.path.name or ".", run.subject)))
    where = () if root == Path("runs") else ("--out", str(root))
    return shlex.join(["apdm", verb, name, *options, *where])


def without_folders(source: str) -> str:
    """The last part of a path; hub ids and `pocket` as they are."""
    return PurePath(source).name if source.startswith(("/", "~", ".")) or "\\" in source else source
