"""Where settings and caches lie on each system."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from apdm_cli.folders import cache_folder, config_folder

VARIABLES = ("APDM_CACHE_DIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "APPDATA", "LOCALAPPDATA")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("system", "config", "cache"),
    [
        ("linux", ".config/apdm", ".cache/apdm"),
        ("darwin", "Library/Application Support/apdm", "Library/Caches/apdm"),
        ("win32", "AppData/Roaming/apdm", "AppData/Local/apdm"),
    ],
)
def test_each_system_has_its_own(
    home: Path, monkeypatch: pytest.MonkeyPatch, system: str, config: str, cache: str
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    assert (config_folder(), cache_folder()) == (home / config, home / cache)
    assert not any(home.iterdir()), "nothing is made"


@pytest.mark.parametrize(
    ("system", "variables"),
    [("linux", ("XDG_CONFIG_HOME", "XDG_CACHE_HOME")), ("win32", ("APPDATA", "LOCALAPPDATA"))],
)
def test_the_systems_variables_count_where_they_are_absolute(
    home: Path, monkeypatch: pytest.MonkeyPatch, system: str, variables: tuple[str, str]
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    usual = config_folder(), cache_folder()
    for variable in variables:
        monkeypatch.setenv(variable, "relative")
    assert (config_folder(), cache_folder()) == usual
    for variable in variables:
        monkeypatch.setenv(variable, str(home / variable))
    found = config_folder(), cache_folder()
    assert found == tuple(home / variable / "apdm" for variable in variables)


@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
def test_the_cache_of_ones_own_choice_comes_first(
    home: Path, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setenv("APDM_CACHE_DIR", "~/mine")
    assert cache_folder() == home / "mine"
