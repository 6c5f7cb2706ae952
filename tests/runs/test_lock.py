"""Who holds a folder, and what happens where folders cannot be held."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

from apdm_cli.errors import ApdmError
from apdm_cli.runs.lock import FolderLock, Held, holding


def refusing(number: int) -> Any:
    def refused(*_: Any) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return refused


def test_a_folder_is_held_until_it_is_released(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    with pytest.raises(Held, match="Another apdm process is working in"):
        FolderLock(tmp_path)
    lock.release()
    lock.release()
    FolderLock(tmp_path).release()


def test_a_lock_knows_whether_its_folder_was_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    lock = FolderLock(folder)
    assert lock.holds(folder)
    folder.rename(tmp_path / "b")
    assert not lock.holds(folder) and lock.holds(tmp_path / "b")
    folder.mkdir()
    assert not lock.holds(folder)
    lock.release()


def test_a_folder_that_is_closed_to_us_is_an_error_and_one_that_is_gone_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError):
        FolderLock(tmp_path / "gone")
    monkeypatch.setattr(os, "open", refusing(errno.EMFILE))
    with pytest.raises(ApdmError, match="cannot be opened: Too many open files") as caught:
        FolderLock(tmp_path)
    assert not isinstance(caught.value, Held)


def test_without_locks_nobody_is_kept_out_and_no_file_stays_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcntl.flock", refusing(errno.ENOLCK))
    before = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    locks = [FolderLock(tmp_path) for _ in range(3)]
    assert all(lock.holds(tmp_path) for lock in locks)
    if before:
        assert len(os.listdir("/proc/self/fd")) == before


def test_windows_has_no_locks_of_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "open", refusing(errno.EACCES))
    locks = [FolderLock(tmp_path) for _ in range(2)]
    assert all(lock.holds(tmp_path) for lock in locks)


def test_whoever_waits_for_a_folder_is_told_once_and_then_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others, told = FolderLock(tmp_path), []
    waits = iter([lambda: None, lambda: None, others.release])
    monkeypatch.setattr("apdm_cli.runs.lock.time.sleep", lambda seconds: next(waits)())
    with holding(tmp_path, lambda: told.append("somebody works there")):
        assert told == ["somebody works there"]
        with pytest.raises(Held):
            FolderLock(tmp_path)
    with holding(tmp_path, lambda: told.append("again")):  # released, also after an error
        pass
    assert len(told) == 1
