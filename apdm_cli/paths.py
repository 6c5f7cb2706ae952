"""Paths that somebody gives us, looked at before anything is opened.

A named pipe blocks whoever opens it, a device may never end, and below /proc a link can lead into
another process. None of them is ever meant, whether it comes from an option or from a manifest.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from apdm_cli.errors import ApdmError

LONGEST_NAME = 255  # bytes; what Linux, macOS and Windows all allow
LONGEST_PATH = 4_000  # bytes; below the limit of Linux
MOST_LINKS = 40  # Linux's own limit for a chain of symbolic links
_SYSTEM = tuple(Path(folder) for folder in ("/proc", "/sys", "/dev"))
_ORDINARY = Path("/dev/shm")  # a file system in memory, where people keep what is private
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def require_ordinary(path: Path, option: str = "") -> Path:
    """Return `path` when it leads to an ordinary file or folder, or to nothing at all.

    Nothing is opened: only names, links and kinds are looked at.

    Args:
        option: named in the message, where the path came from one ("--config").

    Raises:
        ApdmError: a pipe, socket or device; a path that leads into /proc, /sys or /dev, also by
            symbolic links; links that lead in a circle; a name that no file system can hold.
    """
    where = f"{option} {path}" if option else str(path)
    try:
        return _require(path, where)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        hint = "Check its permissions." if isinstance(error, PermissionError) else "Check the path."
        raise ApdmError(f"{where} cannot be looked at: {reason}", hint) from error


def is_regular(path: Path) -> bool:
    """Whether `path` is an ordinary file, by `require_ordinary`'s rules; never raises."""
    try:
        return require_ordinary(path).is_file()
    except (ApdmError, OSError, ValueError):
        return False


def _require(path: Path, where: str) -> Path:
    if "\0" in os.fspath(path):
        raise ApdmError(f"{where} holds a zero byte: no file can be called so", "Check the path.")
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise ApdmError(
            f"The path {where[:60]}... has {len(where)} characters",
            f"No system takes more than {LONGEST_PATH} bytes: check the path.",
        )
    for name in path.parts:
        if len(os.fsencode(name)) > LONGEST_NAME:
            raise ApdmError(
                f"The path {where[:60]}... holds a name of {len(name)} characters",
                f"No file system takes more than {LONGEST_NAME} bytes: check the path.",
            )
    if any(_below_system(step) for step in _steps(path)):
        raise ApdmError(
            f"{where} leads into the system's own files, and is not opened",
            "Give a path to an ordinary file or folder.",
        )
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
            return path  # whoever opens it says so better than is known here
        raise
    if kind in _KINDS:
        raise ApdmError(
            f"{where} is {_KINDS[kind]}, and is not opened",
            "Give a path to an ordinary file or folder.",
        )
    return path


def _steps(path: Path) -> list[Path]:
    """Every place that the system passes on its way to `path`: links are followed one by one."""
    rest = list(reversed(Path(os.path.abspath(path.expanduser())).parts))
    here, passed, links = Path(rest.pop()), [], 0
    while rest:
        here = Path(os.path.normpath(here / rest.pop()))
        passed.append(here)
        if here.is_symlink():
            links += 1
            if links > MOST_LINKS:
                raise ApdmError(f"{path} is a symbolic link in a circle", "Check the path.")
            target = here.parent / os.readlink(here)
            if _below_system(here):  # where it leads to changes with every process
                break
            rest += reversed(target.parts[1:])
            here = Path(target.anchor)
    return passed


def _below_system(place: Path) -> bool:
    if place == _ORDINARY or _ORDINARY in place.parents:
        return False
    return any(folder in place.parents for folder in _SYSTEM)
