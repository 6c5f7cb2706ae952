"""A cell: one finished piece of work in one folder, found again by what it was made from.

<key>/           finished: renamed into place as a whole
<key>.partial/   begun, and interrupted or failed (then with failure.json)
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from apdm_cli.errors import ApdmError, said
from apdm_cli.runs.atomic import PRIVATE, publish_folder, writing_to
from apdm_cli.runs.jsonable import canonical_json
from apdm_cli.runs.lock import FolderLock
from apdm_cli.runs.manifest import now, read_record, write_json_atomic
from apdm_cli.runs.names import slug
from apdm_cli.runs.records import LONGEST_TEXT, Failure

FAILURE = "failure.json"
_PARTIAL = ".partial"


class CellState(StrEnum):
    ABSENT = "absent"
    PARTIAL = "partial"
    FAILED = "failed"
    FINISHED = "finished"


def cell_key(
    description: Mapping[str, Any], readable: Sequence[str] = ("attack", "arm", "seed")
) -> str:
    """A folder name for `description`: readable words, then 12 hex digits of its SHA-256.

    Whatever changes the result belongs into `description`; the order of its keys does not
    matter. `readable` names the entries that are shown: `lora-protected-seed0-1f2e3d4c5b6a`.
    """
    words = []
    for name in readable:
        value = description.get(name)
        if isinstance(value, str):
            words.append(slug(value, 30))
        elif value is not None:
            words.append(slug(f"{name}{value}", 30))
    digest = hashlib.sha256(canonical_json(description).encode()).hexdigest()[:12]
    return "-".join([word for word in words if word] + [digest])


class Cell:
    """The cell `key` below `folder`; nothing is made before `begin`."""

    def __init__(self, folder: Path, key: str) -> None:
        self.key = key
        self.path = folder / key
        self.partial = folder / f"{key}{_PARTIAL}"
        self._lock: FolderLock | None = None

    @property
    def state(self) -> CellState:
        if self.path.is_dir():
            return CellState.FINISHED
        if (self.partial / FAILURE).is_file():
            return CellState.FAILED
        return CellState.PARTIAL if self.partial.is_dir() else CellState.ABSENT

    @property
    def failure(self) -> dict[str, Any]:
        """What `fail` wrote: error, hint, type, time. Raises `ApdmError` when it did not fail."""
        return read_record(self.partial / FAILURE, Failure)

    def begin(self, fresh: bool = False) -> Path:
        """The folder to work in. What an interrupted try left is kept, unless `fresh`.

        What a failed try left goes. A finished cell stays until `finish` replaces it. Raises
        `Held` when another process works on the cell.
        """
        self.claim()
        if fresh or (self.partial / FAILURE).exists():
            with writing_to(self.partial):
                _empty(self.partial)
        return self.partial

    def claim(self) -> None:
        """Keep other processes from the cell until it is finished, failed or let go.

        Raises `Held` when another process works on it. What the cell is may have changed until
        here: look at `state` again.
        """
        while self._lock is None:
            with writing_to(self.partial):
                self.partial.parent.mkdir(parents=True, exist_ok=True)
                # What an attack leaves can show the subject: it is for the owner alone.
                self.partial.mkdir(mode=PRIVATE, exist_ok=True)
            # Between the two lines the folder may be published under its final name.
            with contextlib.suppress(FileNotFoundError):
                self._lock = FolderLock(self.partial)

    def let_go(self) -> None:
        """Give a claimed cell back as it was found."""
        if self._lock is not None and not any(self.partial.iterdir()):
            self.partial.rmdir()
        self._release()

    def finish(self) -> Path:
        """Publish the work as a whole; returns `path`. Replaces an older result of the cell.

        Raises `ApdmError` when the folder was deleted meanwhile: what lies there now, made by
        whoever wrote last, is not all of the work.
        """
        if self._lock is not None and not self._lock.holds(self.partial):
            raise ApdmError(
                f"The folder {self.partial} was deleted while the attack was running",
                "Run the command again.",
            )
        with writing_to(self.path):
            old = self.path.with_name(f"{self.key}.old{_PARTIAL}")
            if self.path.exists():
                # A folder cannot be renamed onto a full one. Killed between the two renames, the
                # cell is partial, and merely published again.
                shutil.rmtree(old, ignore_errors=True)
                os.replace(self.path, old)
            publish_folder(self.partial, self.path)
            shutil.rmtree(old, ignore_errors=True)
        self._release()
        return self.path

    def fail(self, error: BaseException) -> None:
        """Record why the work ended; what it left stays beside failure.json until the next try."""
        what, hint = (error.what, error.hint) if isinstance(error, ApdmError) else (said(error), "")
        # Of one that is said in a sentence, what is behind it: the system's refusal, for one.
        behind = error.__cause__ if isinstance(error, ApdmError) else None
        record = {
            "error": what[:LONGEST_TEXT],
            "hint": hint[:LONGEST_TEXT],
            "type": type(behind or error).__name__,
            "time": now(),
        }
        write_json_atomic(self.partial / FAILURE, record)
        self._release()

    @contextlib.contextmanager
    def writing(self, fresh: bool = False) -> Iterator[Path]:
        """`begin`, then `finish` when the block ends well, or `fail` when it raises an error.

        The error goes on to the caller. An interrupt leaves a partial cell, to be resumed.
        """
        folder = self.begin(fresh)
        try:
            yield folder
        except Exception as error:
            self.fail(error)
            raise
        except BaseException:
            self._release()
            raise
        self.finish()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def finished_cells(folder: Path) -> list[Path]:
    """The folders of the finished cells in `folder`, by name; none when it does not exist."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_dir() and not path.name.startswith(".") and path.suffix != _PARTIAL
    )


def failed_cells(folder: Path) -> dict[str, dict[str, Any]]:
    """Key → failure of the cells in `folder` that failed and were not finished since."""
    failures = {}
    for file in sorted(folder.glob(f"*{_PARTIAL}/{FAILURE}")):
        cell = Cell(folder, file.parent.name.removesuffix(_PARTIAL))
        if cell.state is CellState.FAILED:
            try:
                failures[cell.key] = cell.failure
            except ApdmError as error:  # it failed all the same, and the others are told of
                failures[cell.key] = {"error": error.what, "hint": "", "type": "", "time": ""}
    return failures


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
