"""Every option that takes a value, in every command, with values that hardly any can mean."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from apdm_cli.cli.main import build_app
from tests.hostile.commands import outcome
from tests.hostile.counting import hostile, tried
from tests.hostile.test_visible import is_safe

VALUES = [
    *("", "-1", "1.5", "nan", "9" * 400, "٣", "a.b.c=[", ",", "../..", "~nobody/x"),
    *("%s{0}[/]", "x" * 300, "x" * 5_000),
]
# What makes a command get as far as it can without a run, a photo or a model. None of these can do
# its work here, so that a value which is taken as it stands ends in a sentence as well.
BASES = {
    "protect": ["protect", "missing", "--class", "dog"],
    "attack": ["attack"],
    "evaluate": ["evaluate"],
    "compare": ["compare"],
    "demo": ["demo", "--subject", "nobody"],
}
# These answer where there is nothing, too.
ANSWERING = {"runs": ["runs"], "clean": ["clean", "--dry-run"], "plugins": ["plugins"],
             "settings": ["settings"]}  # fmt: skip


def _options() -> Iterator[tuple[str, str]]:
    group: Any = typer.main.get_command(build_app())
    for name in (*BASES, *ANSWERING):
        for parameter in group.commands[name].params:
            if not getattr(parameter, "is_flag", False):
                option = next((one for one in parameter.opts if one.startswith("--")), "")
                yield name, option


OPTIONS = sorted(set(_options()))


@hostile("options and arguments")
@pytest.mark.parametrize(("command", "option"), OPTIONS)
def test_values_that_mean_nothing(
    command: str, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    expected = (1, 2) if command in BASES else (0, 1, 2)
    for value in VALUES:
        tried()
        given = [f"{option}={value}"] if option else ["--", value]
        code, said = outcome([*(BASES | ANSWERING)[command], *given], capfd)
        about = (value[:20], code, said[:2_000])
        assert code in expected and said.strip(), about
        assert "Traceback" not in said and is_safe(said.replace("\t", "")), about
        # A usage error shows the usage; nothing repeats a long value at full length.
        assert len(said) < 2_500 or command in ANSWERING, about
        assert os.listdir(tmp_path) == [], about


def test_there_are_many() -> None:
    assert len(OPTIONS) > 60 and len({command for command, _ in OPTIONS}) == 9
