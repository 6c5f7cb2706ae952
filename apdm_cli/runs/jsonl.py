"""A log with one JSON object per line that survives being cut off anywhere."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apdm_cli.errors import ApdmError
from apdm_cli.paths import require_ordinary
from apdm_cli.runs.atomic import write_bytes_atomic, writing_to
from apdm_cli.runs.events import Events
from apdm_cli.runs.jsonable import jsonable, parse_json


class StepLog:
    """Appends to `path`; as a context manager it closes the file.

    A last line that a killed process left unfinished is cut off first.

    Args:
        events: also write TensorBoard's event files beside it (the extra `tensorboard`).
    """

    def __init__(self, path: Path, *, events: bool = False) -> None:
        with writing_to(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                whole = _whole_lines(_content(path))
                os.truncate(path, sum(map(len, whole)))
            self._file = path.open("ab", buffering=0)
        self._path = path
        self._events = Events(path.parent, read_rows(path)) if events else None

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one line, at once: a process that is killed afterwards has written it."""
        line = json.dumps(jsonable(row), ensure_ascii=False, allow_nan=False) + "\n"
        with writing_to(self._path):
            self._file.write(line.encode("utf-8"))
        if self._events is not None:
            self._events.add(row)

    def sync(self) -> None:
        """Force the log to the disk: call it before a checkpoint that relies on its lines."""
        with writing_to(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()
        if self._events is not None:
            self._events.close()

    def __enter__(self) -> StepLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of `path`; none when there is no file. An unfinished last line is left out.

    Raises `ApdmError` for a broken line before the last.
    """
    rows = []
    for number, line in enumerate(_whole_lines(_content(path)), start=1):
        row = _parsed(line)
        if row is None:
            raise ApdmError(
                f"{path}, line {number} is broken", "Remove the line, or restore the file."
            )
        rows.append(row)
    return rows


def truncate_log(path: Path, step: int, key: str = "step") -> None:
    """Keep the rows of steps before `step`: what a run resumed at `step` has behind it.

    `key` names the row's step number; rows without it stay. The kept lines stay as they are,
    byte for byte. Broken and unfinished lines go. No file is no error.
    """
    if not path.exists():
        return
    kept = []
    for line in _whole_lines(_content(path)):
        row = _parsed(line)
        if row is not None and (key not in row or _is_before(row[key], step)):
            kept.append(line)
    write_bytes_atomic(path, b"".join(kept))


def _is_before(number: Any, step: int) -> bool:
    """Whether `number` is one, and below `step`; a step called by anything else was never taken."""
    return isinstance(number, int) and not isinstance(number, bool) and number < step


def _content(path: Path) -> bytes:
    require_ordinary(path)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise ApdmError(
            f"{path} cannot be read: {error.strerror or error}", "Check its permissions."
        ) from error


def _whole_lines(content: bytes) -> list[bytes]:
    return [line for line in content.splitlines(keepends=True) if line.endswith(b"\n")]


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        row = parse_json(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
