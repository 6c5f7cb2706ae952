"""How much room a folder takes, and whether somebody works in it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from apdm_cli.errors import ApdmError
from apdm_cli.runs.lock import FolderLock

_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def tree_size(path: Path) -> int:
    """Bytes of the files in `path`, which may be a file itself; 0 when it does not exist.

    Symbolic links are not followed and count nothing. What vanishes meanwhile counts nothing.
    """
    with contextlib.suppress(OSError):
        if path.is_symlink():
            return 0
        if path.is_file():
            return path.stat().st_size
        return sum(entry.stat(follow_symlinks=False).st_size for entry in _files(path))
    return 0


def _files(folder: Path) -> Iterator[os.DirEntry[str]]:
    waiting = [os.fspath(folder)]
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    yield entry


def is_held(folder: Path) -> bool:
    """Whether another process holds the lock of `folder`; False when there is no such folder."""
    try:
        FolderLock(folder).release()
    except ApdmError:
        return True
    except OSError:
        return False
    return False


def format_bytes(count: int) -> str:
    """`5321` -> `5.3 kB`, in powers of 1000 as disks are sold."""
    size, unit = float(count), 0
    while size >= 999.5 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    digits = 1 if unit and size < 99.95 else 0
    return f"{size:.{digits}f} {'byte' if count == 1 else _UNITS[unit]}"
