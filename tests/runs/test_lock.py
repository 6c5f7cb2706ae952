"""One holder at a time, whatever becomes of the folder, and a sentence where locks are not."""

import errno
import os

import pytest

from apdm_cli.errors import ApdmError
from apdm_cli.runs import lock as room
from apdm_cli.runs.lock import FolderLock, Held, holding

fcntl = pytest.importorskip("fcntl", reason="folders cannot be locked on Windows")


def test_the_second_has_to_wait_for_the_first(tmp_path):
    first = FolderLock(tmp_path)
    with pytest.raises(Held, match="Another apdm process is working in"):
        FolderLock(tmp_path)
    first.release()
    first.release()  # does nothing
    FolderLock(tmp_path).release()


def test_who_waits_is_told_once_and_then_holds(tmp_path, monkeypatch):
    first, told, slept = FolderLock(tmp_path), [], []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 3:
            first.release()

    monkeypatch.setattr(room.time, "sleep", sleep)
    with holding(tmp_path, lambda: told.append(1)):
        assert len(slept) == 3 and told == [1]
        with pytest.raises(Held):
            FolderLock(tmp_path)
    FolderLock(tmp_path).release()


def test_a_block_that_fails_lets_go(tmp_path):
    with pytest.raises(ValueError, match="x"), holding(tmp_path, lambda: None):
        raise ValueError("x")
    FolderLock(tmp_path).release()


def test_a_lock_knows_the_folder_that_came_in_its_place(tmp_path):
    folder = tmp_path / "cell"
    folder.mkdir()
    lock = FolderLock(folder)
    assert lock.holds(folder)
    folder.rename(tmp_path / "old")
    assert lock.holds(tmp_path / "old") and not lock.holds(folder)
    folder.mkdir()
    assert not lock.holds(folder)
    FolderLock(folder).release()
    lock.release()


def test_a_folder_that_was_renamed_while_it_was_locked(tmp_path, monkeypatch):
    folder = tmp_path / "cell"
    folder.mkdir()
    real = fcntl.flock

    def slow(handle, how):
        folder.rename(tmp_path / "published")
        real(handle, how)

    monkeypatch.setattr(fcntl, "flock", slow)
    with pytest.raises(FileNotFoundError):
        FolderLock(folder)
    monkeypatch.setattr(fcntl, "flock", real)
    FolderLock(tmp_path / "published").release()  # nothing was kept


def test_no_such_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        FolderLock(tmp_path / "nowhere")


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES])
def test_a_folder_that_cannot_be_opened_is_named(tmp_path, monkeypatch, number):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(room.os, "open", refuse)
    with pytest.raises(ApdmError, match=os.strerror(number)) as caught:
        FolderLock(tmp_path)
    assert str(tmp_path) in caught.value.what


def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch):
    """Two processes there are the user's own care."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    assert first.holds(tmp_path / "anything") and second.holds(tmp_path)
    first.release()
