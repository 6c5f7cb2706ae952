"""Prompt sets: what is in them, and files that are none."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from apdm_cli.errors import UsageError
from apdm_cli.evaluation.prompts import fill, load_prompts, neighbour_classes, spread


def test_identity_is_the_published_protocol() -> None:
    prompts = fill(spread(load_prompts("identity"), 30), "sks person")
    assert prompts == ["a photo of sks person"] * 15 + ["a portrait of sks person"] * 15


def test_object_has_the_25_different_prompts_of_dreambooth() -> None:
    prompts = load_prompts("object")
    assert len(prompts) == len(set(prompts)) == 25
    assert all(prompt.count("{}") == 1 for prompt in prompts)
    assert "a cube shaped {}" in prompts


def test_diverse_prompts_name_the_subject_and_are_other_prompts() -> None:
    prompts = load_prompts("diverse")
    assert all(prompt.count("{}") == 1 for prompt in prompts)
    assert not set(prompts) & set(load_prompts("identity"))


def test_every_prompt_comes_about_equally_often() -> None:
    prompts = spread(load_prompts("object"), 30)
    counts = [prompts.count(prompt) for prompt in set(prompts)]
    assert len(prompts) == 30
    assert set(counts) == {1, 2}
    assert spread(("a", "b"), 1) == ["a"]


def test_a_file_may_have_comments_blank_lines_and_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_bytes("\ufeff# mine\n\n  {} in Málaga \nplain\r\n".encode())
    assert load_prompts(str(file)) == ("{} in Málaga", "plain")
    assert fill(load_prompts(str(file)), "sks dog") == ["sks dog in Málaga", "plain"]


def test_files_that_are_no_prompts_are_refused_by_the_options_name(tmp_path: Path) -> None:
    latin = tmp_path / "latin.txt"
    latin.write_bytes("caf\xe9".encode("latin-1"))
    with pytest.raises(UsageError, match=r"--captions .*latin\.txt: not UTF-8 \(byte 3\)"):
        load_prompts(str(latin), "--captions")
    empty = tmp_path / "empty.txt"
    empty.write_text("# nothing\n\n")
    with pytest.raises(UsageError, match="no prompt in it"):
        load_prompts(str(empty))
    with pytest.raises(UsageError, match=r"Did you mean identity\?"):
        load_prompts("identiy")
    with pytest.raises(UsageError, match="neither a prompt set nor a file"):
        load_prompts(str(tmp_path))


def test_a_file_that_cannot_be_opened_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.txt").write_text("a photo of {}")

    def refused(path: Path, *rest: Any, **options: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    for door in ("read_text", "stat"):  # `stat` where a folder above it is closed
        with monkeypatch.context() as patch:
            patch.setattr(Path, door, refused)
            with pytest.raises(UsageError, match=r"cannot be read \(Permission denied") as caught:
                load_prompts(str(tmp_path / "mine.txt"))
        assert "permissions" in caught.value.hint


def test_a_class_is_not_its_own_neighbour() -> None:
    assert neighbour_classes("person") == ("dog", "cat")
    assert "dog" not in neighbour_classes("dog")
    assert neighbour_classes("teapot")
