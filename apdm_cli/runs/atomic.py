"""Files and folders that are either whole or not there, also after a power cut."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from apdm_cli.errors import ApdmError

TEMPORARY_PREFIX = ".tmp-"
PRIVATE = 0o700  # of a folder that may hold what shows the subject: for its owner alone


def require_writable(path: Path, *, parents: bool = False) -> None:
    """Refuse before any work a file that `write_bytes_atomic` would refuse after it.

    Nothing is written: what the system says of the folder counts.

    Args:
        parents: the folders that it lies in are made by whoever writes it.

    Raises:
        ApdmError: it is a folder, or its folder is not there, is a file or cannot be written.
    """
    with writing_to(path):
        if path.is_dir():
            raise IsADirectoryError
        folder = path.parent
        if parents:
            folder = next(one for one in path.parents if one.exists())
        if not folder.exists():
            raise FileNotFoundError
        if not folder.is_dir():
            raise NotADirectoryError
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def write_bytes_atomic(path: Path, content: bytes) -> None:
    """Replace `path` by `content`: a reader sees the old or the new file, never a part."""
    with writing_to(path):
        temporary = _temporary(path.parent)
        try:
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Fill the yielded folder; it becomes `target` (which must not exist) when the block ends.

    Every file is forced to the disk first. When the block raises, nothing is left behind.
    """
    with writing_to(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(target.parent)
        temporary.mkdir()
    try:
        yield temporary
        with writing_to(target):
            publish_folder(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def publish_folder(folder: Path, target: Path) -> None:
    """Force all of `folder` to the disk, then rename it to `target`, which must not exist."""
    for parent, _, names in os.walk(folder):
        for name in names:
            sync_file(Path(parent, name))
        sync_folder(Path(parent))
    os.replace(folder, target)
    sync_folder(target.parent)


def remove_leftovers(folder: Path) -> None:
    """Delete what killed writers left in `folder`. Call it only where no other process writes."""
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Force the names in `folder` to the disk, where the system knows how (not on Windows)."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Turn the system's refusals to write `path` into an `ApdmError` that names it."""
    try:
        yield
    except OSError as error:
        file = next((one for one in (path, *path.parents) if one.is_file()), None)
        if file is not None and isinstance(error, FileExistsError | NotADirectoryError):
            raise ApdmError(
                f"{path} cannot be written: {file} is a file, and a folder is needed there",
                "Move the file away, or name another place; that of runs is --out.",
            ) from error
        if isinstance(error, IsADirectoryError):
            raise ApdmError(
                f"{path} cannot be written: it is a folder", "Name a file in it."
            ) from error
        if isinstance(error, FileNotFoundError) and not path.parent.exists():
            raise ApdmError(
                f"{path} cannot be written: the folder {path.parent} does not exist",
                "Make it first, or name another place.",
            ) from error
        reason = error.strerror or str(error)
        raise ApdmError(
            f"{path} cannot be written: {reason}",
            "Check its permissions and the free space, or name another place; that of runs is "
            "--out.",
        ) from error


def _temporary(folder: Path) -> Path:
    # Not from `tempfile`: its files can be read by their owner only, and results are no secret.
    return folder / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
