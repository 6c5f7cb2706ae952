"""Which files count as photos, and their order."""

import errno
import hashlib
import os
from pathlib import Path

import pytest
from PIL import Image

from apdm_cli.diffusion import photo_files, photo_opening
from apdm_cli.diffusion.photo_files import (
    find_photos,
    mask_files,
    natural_key,
    photo_captions,
    photo_hashes,
)
from apdm_cli.errors import ApdmError
from tests.diffusion.photo_samples import close


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(name.encode())


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_natural_order():
    shuffled = ["dog10.jpg", "2.png", "Dog2.jpg", "dog1.jpg", "10.png", "dog.jpg", "dog1b.jpg"]
    in_order = ["2.png", "10.png", "dog.jpg", "dog1.jpg", "dog1b.jpg", "Dog2.jpg", "dog10.jpg"]
    assert sorted(shuffled, key=natural_key) == in_order
    assert sorted(reversed(shuffled), key=natural_key) == in_order


def test_composed_and_decomposed_names_sort_alike():
    assert natural_key("e\u0301te\u0301.jpg") == natural_key("\u00e9t\u00e9.jpg")


def test_a_folder_gives_its_photos_and_counts_the_rest(tmp_path):
    touch(tmp_path, "b10.JPG", "b9.jpeg", "a.webp", "c.bmp", "d.tif", "e.TIFF", "f.png")
    touch(tmp_path, "notes.txt", "._b9.jpeg", ".DS_Store")
    touch(tmp_path / "below", "x.jpg")
    touch(tmp_path / "folder.jpg")
    files, ignored = find_photos([tmp_path])
    assert names(files) == ["a.webp", "b9.jpeg", "b10.JPG", "c.bmp", "d.tif", "e.TIFF", "f.png"]
    assert sorted(entry.name for entry in ignored) == sorted(
        ["notes.txt", "._b9.jpeg", ".DS_Store", "below", "folder.jpg"]
    )


def test_several_paths_and_the_same_file_twice(tmp_path):
    touch(tmp_path / "one", "b.jpg", "c.jpg")
    touch(tmp_path / "two", "a.jpg")
    files, ignored = find_photos(
        [tmp_path / "one" / "c.jpg", tmp_path / "two", tmp_path / "one", tmp_path / "two"]
    )
    assert names(files) == ["a.jpg", "b.jpg", "c.jpg"]
    assert ignored == ()


@pytest.mark.parametrize(
    ("made", "asked", "said"),
    [
        ([], "missing", "does not exist"),
        ([], ".", "nothing is in it"),
        (["a.txt", "b.mp4"], ".", "2 other files"),
        (["below/a.jpg"], ".", "Folders below"),
        (["a.txt"], "a.txt", "not a photo"),
    ],
)
def test_nothing_to_use_is_one_short_message(tmp_path, made, asked, said):
    for name in made:
        touch((tmp_path / name).parent, Path(name).name)
    with pytest.raises(ApdmError, match=said) as caught:
        find_photos([tmp_path / asked])
    assert str(tmp_path / asked) in caught.value.what
    assert caught.value.hint


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    touch(tmp_path, "a.jpg")
    files, ignored = find_photos([tmp_path])
    assert names(files) == ["a.jpg"]
    assert [(entry.name, entry.reason) for entry in ignored] == [("pipe.jpg", "no ordinary file")]


def test_hashes_follow_the_order_and_need_no_picture(tmp_path):
    touch(tmp_path, "10.jpg", "9.jpg")
    expected = [(name, hashlib.sha256(name.encode()).hexdigest()) for name in ("9.jpg", "10.jpg")]
    assert list(photo_hashes([tmp_path])) == expected


def test_photos_of_one_name_are_ordered_by_content(tmp_path):
    for folder, colour in (("one", "red"), ("two", "blue")):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (20, 20), colour).save(tmp_path / folder / "0.png")
    there = photo_hashes([tmp_path / "one", tmp_path / "two"])
    assert there == photo_hashes([tmp_path / "two", tmp_path / "one"])
    assert there[0][1] < there[1][1]


@pytest.mark.parametrize("name", ["b.jpg", "album"])
def test_what_is_closed_to_us_is_said(tmp_path, monkeypatch, name):
    touch(tmp_path / "album", "a.jpg", "b.jpg")
    close(monkeypatch, name)
    with pytest.raises(ApdmError, match=rf"{name} cannot be read: Permission denied") as caught:
        photo_hashes([tmp_path / "album"])
    assert caught.value.hint == "Check its permissions."


def test_what_cannot_be_opened_is_left_out_where_that_is_asked_for(tmp_path, monkeypatch):
    touch(tmp_path, "a.jpg", "closed.jpg", "big.jpg")
    (tmp_path / "lost.png").symlink_to(tmp_path / "nowhere")
    monkeypatch.setattr(photo_opening, "MAX_BYTES", 100)
    (tmp_path / "big.jpg").write_bytes(b"x" * 101)
    close(monkeypatch, "closed.jpg")
    files, ignored = find_photos([tmp_path], ignore_unreadable=True)
    assert names(files) == ["a.jpg"]
    reasons = {entry.name: entry.reason for entry in ignored if entry.is_picture}
    assert reasons == {
        "big.jpg": "too large for a photo (0 MiB)",
        "closed.jpg": "cannot be read (Permission denied)",
        "lost.png": "a link that leads nowhere",
    }
    for name, hint in (
        ("big.jpg", "Make it smaller"),
        ("closed.jpg", "Check its permissions."),
        ("lost.png", "Mend the link"),
    ):
        with pytest.raises(ApdmError, match=name.replace(".", r"\.")) as caught:
            find_photos([tmp_path])
        assert caught.value.hint.startswith(hint)
        assert caught.value.hint.endswith(" To go on without it: --ignore-unreadable.")
        (tmp_path / name).unlink()
    assert names(find_photos([tmp_path]).files) == ["a.jpg"]


def test_where_none_can_be_opened_each_is_named(tmp_path, monkeypatch):
    touch(tmp_path, "a.jpg")
    close(monkeypatch, "a.jpg")
    with pytest.raises(ApdmError, match=r"No photo can be read: a\.jpg \(cannot be read \(Perm"):
        find_photos([tmp_path], ignore_unreadable=True)


@pytest.mark.skipif(os.name != "posix", reason="another kind of permissions")
def test_photos_in_a_folder_that_only_lists_its_names(tmp_path, monkeypatch):
    """As of one with the permissions r--, in which nothing can be looked at."""
    touch(tmp_path / "album", "a.jpg", "notes.txt")
    real = Path.stat

    def refusing(path, **options):
        if path.parent.name == "album":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, **options)

    monkeypatch.setattr(Path, "stat", refusing)
    for asked in (tmp_path / "album", tmp_path / "album" / "a.jpg"):
        with pytest.raises(ApdmError, match=r"a\.jpg cannot be looked at: Permission") as caught:
            find_photos([asked])
        assert "Check its permissions." in caught.value.hint
    with pytest.raises(ApdmError, match=r"a\.jpg \(cannot be looked at \(Permission denied\)\)"):
        find_photos([tmp_path / "album"], ignore_unreadable=True)


@pytest.mark.parametrize("name", ["a.txt", "a-masklabel.png"])
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("closed", "cannot be read: Permission denied"),
        ("link", "is a link that leads nowhere"),
        ("folder", "cannot be read: Is a directory"),
    ],
)
def test_captions_and_masks_that_cannot_be_opened_are_said(tmp_path, monkeypatch, name, kind, said):
    touch(tmp_path, "a.jpg", *([name] if kind == "closed" else []))
    if kind == "link":
        (tmp_path / name).symlink_to(tmp_path / "nowhere")
    elif kind == "folder":
        (tmp_path / name).mkdir()
    close(monkeypatch, name)
    assert names(find_photos([tmp_path]).files) == ["a.jpg"]
    with pytest.raises(ApdmError, match=f"{name.replace('.', chr(92) + '.')} {said}") as caught:
        (photo_captions if name == "a.txt" else mask_files)([tmp_path])
    assert caught.value.hint


def test_a_closed_file_under_another_ending_is_no_picture(tmp_path, monkeypatch):
    touch(tmp_path, "a.jpg")
    (tmp_path / "backup").write_bytes(b"\x89PNG\r\n")
    close(monkeypatch, "backup")
    files, ignored = find_photos([tmp_path])
    assert names(files) == ["a.jpg"]
    assert [(entry.name, entry.reason) for entry in ignored] == [("backup", "no picture")]


def test_a_file_that_grows_while_it_is_read_has_an_end(tmp_path, monkeypatch):
    photo = tmp_path / "a.jpg"
    photo.write_bytes(b"x" * 10)
    monkeypatch.setattr(photo_opening, "MAX_BYTES", 10)
    assert photo_hashes([photo]) == (("a.jpg", hashlib.sha256(b"x" * 10).hexdigest()),)

    real = os.fdopen

    def grown(*opened):
        photo.write_bytes(b"x" * 11)
        return real(*opened)

    monkeypatch.setattr(os, "fdopen", grown)
    with pytest.raises(ApdmError, match=r"a\.jpg is too large for a photo"):
        photo_hashes([photo])


def test_more_photos_than_anybody_means_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(photo_files, "MAX_PHOTOS", 2)
    touch(tmp_path, "1.jpg", "2.jpg")
    assert len(find_photos([tmp_path]).files) == 2
    touch(tmp_path, "3.jpg")
    with pytest.raises(ApdmError, match="3 photos are more than 2"):
        find_photos([tmp_path])
