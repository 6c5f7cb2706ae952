"""manifest.json: what a folder of results is, and what it was made with."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from apdm_cli import __version__
from apdm_cli.errors import ApdmError
from apdm_cli.paths import require_ordinary
from apdm_cli.runs.atomic import write_bytes_atomic
from apdm_cli.runs.jsonable import jsonable, parse_json
from apdm_cli.runs.records import Record, manifest_problem, problem

MANIFEST = "manifest.json"
LARGEST_JSON = 256 * 2**20  # bytes; scores of a run with ten thousands of pictures are a tenth


def write_json_atomic(path: Path, data: Mapping[str, Any]) -> None:
    """Write `data` as readable JSON; whoever reads sees the old file or the whole new one."""
    text = json.dumps(jsonable(data), indent=2, ensure_ascii=False, allow_nan=False)
    write_bytes_atomic(path, (text + "\n").encode("utf-8", "backslashreplace"))


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest at `path`, or in the folder `path`.

    Raises `ApdmError` when it is missing, is no JSON object, names no `kind`, or holds an entry
    of another type than the product wrote (`apdm_cli.runs.records`).
    """
    file = path / MANIFEST if path.is_dir() else path
    manifest = read_json(file, missing_hint="Is this the folder of a run?")
    if not isinstance(manifest.get("kind"), str):
        raise ApdmError(f'{file} is no manifest of apdm: it has no "kind"', _BROKEN_HINT)
    wrong = manifest_problem(manifest)
    if wrong is not None:
        raise ApdmError(f"{file} is broken: {wrong}", _BROKEN_HINT)
    return manifest


def read_record(file: Path, model: type[Record]) -> dict[str, Any]:
    """The JSON object in `file`, whose entries have the types that `model` gives them.

    Raises `ApdmError` when it is missing, broken, or something else.
    """
    data = read_json(file)
    wrong = problem(model, data)
    if wrong is not None:
        raise ApdmError(f"{file} is broken: {wrong}", _BROKEN_HINT)
    return data


def read_json(file: Path, missing_hint: str = "", *, foreign: bool = False) -> dict[str, Any]:
    """The JSON object in `file`. Raises `ApdmError` when it is missing or broken.

    Args:
        foreign: it was written by another library, see `parse_json`.
    """
    require_ordinary(file)
    try:
        if file.stat().st_size > LARGEST_JSON:
            raise ApdmError(f"{file} is broken: it is far too large", _BROKEN_HINT)
        data = parse_json(file.read_text(encoding="utf-8"), foreign=foreign)
    except FileNotFoundError as error:
        raise ApdmError(f"{file} does not exist", missing_hint) from error
    except OSError as error:
        raise ApdmError(
            f"{file} cannot be read: {error.strerror or error}", "Check its permissions."
        ) from error
    except ValueError as error:  # JSON and UTF-8 errors
        raise ApdmError(f"{file} is broken: {error}", _BROKEN_HINT) from error
    if not isinstance(data, dict):
        raise ApdmError(f"{file} is broken: it holds no JSON object", _BROKEN_HINT)
    return data


def versions() -> dict[str, str | None]:
    """Versions of everything a result depends on; None for what is not installed."""
    return dict(_versions())


@cache
def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "apdm": __version__,
    }
    for package in ("torch", "diffusers", "transformers", "peft"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def now() -> str:
    """The time in UTC with microseconds, ISO 8601: sorts as text."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


_BROKEN_HINT = "Restore it from a copy, or delete its folder and run the command again."
