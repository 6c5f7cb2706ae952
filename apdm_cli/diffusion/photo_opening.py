"""Opening one photo, or what lies beside it, and saying why that cannot be done."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path
from typing import BinaryIO

from apdm_cli.errors import ApdmError
from apdm_cli.paths import require_ordinary
from apdm_cli.visible import visible

MAX_BYTES = 256 * 2**20  # of one file; the largest that a phone or a camera writes are a third
_CHUNK = 2**20


def sha256_of(path: Path) -> str:
    """Of its content, and never a whole file in memory. ApdmError where it cannot be read."""
    digest, size = hashlib.sha256(), 0
    try:
        with opened(path) as file:
            while chunk := file.read(_CHUNK):
                size += len(chunk)
                if size > MAX_BYTES:  # a file that grows while it is read, for one
                    raise _too_large(path, size)
                digest.update(chunk)
    except OSError as error:
        raise unreadable(path, error) from error
    return digest.hexdigest()


def opened(path: Path) -> BinaryIO:
    """`path` opened for reading. OSError, or ApdmError where it is not opened at all."""
    return os.fdopen(_handle(path), "rb")


def _handle(path: Path) -> int:
    """`path` opened for reading, unless it is no ordinary file or too large.

    Without blocking: between the look and the opening somebody may have put a pipe there.
    """
    found = require_ordinary(path).stat()
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if found.st_size > MAX_BYTES:
        raise _too_large(path, found.st_size)
    return os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))


def _too_large(path: Path, size: int) -> ApdmError:
    return ApdmError(
        f"{visible(path.name)} is too large for a photo ({size / 2**20:.0f} MiB)",
        f"Make it smaller: at most {MAX_BYTES // 2**20} MiB.",
    )


def unreadable(path: Path, error: OSError) -> ApdmError:
    """What the system's refusal is called, and what to do about it."""
    if isinstance(error, FileNotFoundError):
        if path.is_symlink():
            return ApdmError(f"{path} is a link that leads nowhere", "Mend the link, or remove it.")
        hint = "Look where it is now, then run the command again."
    elif isinstance(error, IsADirectoryError):
        hint = "A file is wanted there."
    else:
        hint = "Check its permissions."
    return ApdmError(f"{path} cannot be read: {error.strerror or error}", hint)


def is_out_of_reach(path: Path) -> bool:
    """Whether the system does not show what is there: where a link leads nowhere, for one."""
    try:
        path.stat()
    except OSError as error:
        return error.errno != errno.ELOOP  # a link in a circle leads to no photo
    return False


def refusal(path: Path) -> ApdmError | None:
    """Why `path` cannot be opened for reading; None where it can."""
    try:
        os.close(_handle(path))
    except OSError as error:
        return unreadable(path, error)
    except ApdmError as error:
        return error
    return None
