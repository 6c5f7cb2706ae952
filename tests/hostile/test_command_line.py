"""Every option of every command against what no option can mean, through the front door."""

from __future__ import annotations

import importlib
import os
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from apdm_cli.cli.main import build_app
from tests.hostile.commands import outcome
from tests.hostile.counting import hostile, tried
from tests.hostile.inputs import TEXTS
from tests.hostile.test_visible import is_safe
from tests.tiny import make_photos

# Options that are texts, and become paths where they look like one.
TEXT_PATHS = {
    "attack": ("--model", "--original", "--suite"),
    "protect": ("--model",),
    "evaluate": ("--prompts",),
}


def _path_options() -> Iterator[tuple[str, str]]:
    group: Any = typer.main.get_command(build_app())
    for name, command in group.commands.items():
        function = getattr(importlib.import_module(f"apdm_cli.cli.{name}"), name)
        hints = typing.get_type_hints(function)
        for parameter in command.params:
            if "Path" in str(hints.get(parameter.name)):
                option = parameter.opts[0] if parameter.opts[0].startswith("-") else ""
                yield name, option
        for option in TEXT_PATHS.get(name, ()):
            yield name, option


PATH_OPTIONS = sorted(set(_path_options()))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    make_photos(tmp_path / "photos", count=1)
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "zero.toml").symlink_to("/dev/zero")
    (tmp_path / "fd.toml").symlink_to("/proc/self/fd/0")
    return tmp_path


def arguments(command: str, option: str, value: str) -> list[str]:
    rest = {
        "protect": ["--class", "dog"] + ([] if option == "" else ["photos"]),
        "attack": ["--photos", "photos", "--subject-class", "dog"] if option == "--model" else [],
    }.get(command, [])
    return [command, *([option] if option else []), value, *rest]


@hostile("options and arguments")
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
@pytest.mark.parametrize("target", ["pipe.toml", "zero.toml", "fd.toml", "/dev/stdin"])
@pytest.mark.parametrize(("command", "option"), PATH_OPTIONS)
def test_no_path_option_opens_what_is_no_file(
    command: str, option: str, target: str, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, said = outcome(arguments(command, option, target), capfd)
    assert code in (1, 2), said
    assert "Traceback" not in said
    assert not (place / "runs").exists()


@hostile("options and arguments")
@pytest.mark.parametrize("text", [text for text in TEXTS if "\0" not in text and len(text) < 6_500])
@pytest.mark.parametrize("command", ["protect", "attack", "evaluate", "compare"])
def test_texts_in_the_place_of_paths_and_names(
    command: str, text: str, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    value = f"./{text}" if text.startswith("-") else text
    more = ["--class", "dog"] if command == "protect" else []
    code, said = outcome([command, value, "--out", "runs", *more], capfd)
    if "--help" not in text:
        assert code in (1, 2), said
    assert "Traceback" not in said and said.strip()
    assert is_safe(said.replace("\t", ""))
    assert not (place / "runs").exists()


@hostile("options and arguments")
@pytest.mark.parametrize("argument", ["\x1b[2J", "--\x1b[2J", "\x9b2J", "\u202ex"])
def test_arguments_are_repeated_without_what_a_terminal_obeys(
    argument: str, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for arguments in ([argument], ["protect", argument], ["attack", "--seed", argument]):
        tried()
        code, said = outcome(arguments, capfd)
        assert code == 2 and is_safe(said)


@hostile("options and arguments")
@pytest.mark.parametrize(
    "option",
    ["--class", "--identifier", "--model", "--name", "--config", "--set", "--out", "--seed"],
)
def test_bytes_that_are_no_utf8_in_any_option(
    option: str, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, said = outcome(["protect", "photos", option, "a\udce9b"], capfd)
    assert code == 2 and "not UTF-8" in said and r"a\udce9b" in said


@hostile("options and arguments")
@pytest.mark.parametrize("option", ["--name", "--config", "--out", "--model", "--class"])
def test_names_of_more_than_255_characters(
    option: str, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = {"--class": "dog", option: "x" * 300}
    code, said = outcome(
        ["protect", ".", *(part for pair in options.items() for part in pair)], capfd
    )
    assert code in (1, 2) and "Traceback" not in said and len(said) < 1_200
