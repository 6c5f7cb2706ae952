"""`apdm plugins`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from apdm_cli.cli import console
from apdm_cli.cli.main import build_app


def test_json_has_every_option_with_its_default() -> None:
    result = CliRunner().invoke(build_app({"plugins"}), ["plugins", "--json"])
    listed = json.loads(result.stdout)
    assert listed["broken"] == []
    lora = next(row for row in listed["plugins"] if row["name"] == "lora")
    assert lora["kind"] == "attack" and lora["distribution"] == "apdm" and lora["summary"]
    rank = next(option for option in lora["options"] if option["key"] == "rank")
    assert rank["default"] == 4 and rank["description"]
    kinds = {row["kind"] for row in listed["plugins"]}
    assert kinds == {"attack", "family", "metric", "protection"}
    apdm = next(row for row in listed["plugins"] if row["name"] == "apdm")
    assert {"paper", "pocket", "durable"} <= set(apdm["presets"])
    assert {"beta", "attackers.pool"} <= {option["key"] for option in apdm["options"]}


def test_a_broken_plugin_is_shown_with_its_error(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("1 / 0\n")
    arguments = ["plugins", "--json", "--plugin-file", str(tmp_path / "bad.py")]
    result = CliRunner().invoke(build_app({"plugins"}), arguments)
    (broken,) = json.loads(result.stdout)["broken"]
    assert broken["plugin"] == "bad.py" and "ZeroDivisionError" in broken["error"]
    assert "bad.py" in result.stderr


def test_a_switched_off_plugin_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APDM_DISABLE_PLUGINS", "apdm:attacks")
    result = CliRunner().invoke(build_app({"plugins"}), ["plugins", "--json"])
    listed = json.loads(result.stdout)
    assert listed["disabled"] == ["apdm:attacks"]
    assert all(row["kind"] != "attack" for row in listed["plugins"])


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_word_is_cut(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setattr(console.stdout, "_width", width)
    text = CliRunner().invoke(build_app({"plugins"}), ["plugins"]).stdout
    assert "…" not in text and max(map(len, text.splitlines())) <= width
    assert "cross-attention" in text
    assert ("version" in text.splitlines()[0]) == (width >= 76)


def test_the_table_names_everything() -> None:
    result = CliRunner().invoke(build_app({"plugins"}), ["plugins", "--options"])
    assert result.exit_code == 0
    for text in ("dreambooth", "custom-diffusion", "lora.rank", "adaptive-lr.rates"):
        assert text in result.stdout
