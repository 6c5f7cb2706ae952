"""Which files count as photos, and their order."""

import errno
import hashlib
import os
from pathlib import Path

import pytest
from PIL import Image

from apdm_cli.diffusion import photo_files
from apdm_cli.diffusion.photo_files import find_photos, natural_key, photo_hashes
from apdm_cli.errors import ApdmError


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


def close(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Refuse to open the file or list the folder of that name, as the system does to others."""

    def refusing(original):
        def opened(path, *rest):
            if Path(path).name == name:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return original(path, *rest)

        return opened

    monkeypatch.setattr(os, "open", refusing(os.open))
    monkeypatch.setattr(Path, "iterdir", refusing(Path.iterdir))


@pytest.mark.parametrize("name", ["b.jpg", "album"])
def test_what_is_closed_to_us_is_said(tmp_path, monkeypatch, name):
    touch(tmp_path / "album", "a.jpg", "b.jpg")
    close(monkeypatch, name)
    with pytest.raises(ApdmError, match=rf"{name} cannot be read: Permission denied") as caught:
        photo_hashes([tmp_path / "album"])
    assert caught.value.hint == "Check its permissions."


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
    monkeypatch.setattr(photo_files, "MAX_BYTES", 10)
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
