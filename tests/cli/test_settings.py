"""`apdm settings`: every key, in one form, and it is the truth."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from apdm_cli.cli import console
from apdm_cli.cli.main import build_app
from apdm_cli.config import parse_assignments, resolve
from apdm_cli.errors import UsageError
from apdm_cli.extension.manager import attacks, build_plugin_manager


def invoke(*arguments: str) -> Any:
    app = build_app({"settings"})
    return CliRunner().invoke(app, ["settings", *arguments], catch_exceptions=False)


def topic(name: str) -> dict[str, dict[str, Any]]:
    listed = json.loads(invoke(name, "--json").stdout)
    return {row["key"]: row for row in listed["settings"]}


def test_the_overview_names_every_topic() -> None:
    listed = json.loads(invoke("--json").stdout)["topics"]
    names = [one["topic"] for one in listed]
    assert {"protect", "evaluate", *attacks(build_plugin_manager())} <= set(names)
    assert (names[0], names[-1]) == ("protect", "evaluate")
    text = invoke().stdout
    assert all(name in text for name in names)


def test_a_setting_has_type_range_choices_default_meaning_and_source() -> None:
    rows = topic("lora")
    rank, variant, steps = rows["rank"], rows["variant"], rows["steps"]
    assert (rank["kind"], rank["range"], rank["default"]) == ("whole number", "at least 1", 4)
    assert rank["profiles"]["pocket"] == 8 and rank["description"] == "rank of the adapters"
    assert variant["choices"] == ["lora", "dora", "loha", "lokr"]
    assert "arXiv 2511.01307" in steps["source"] and steps["source"] != rank["source"]
    assert rows["ema"]["range"] == "at least 0, below 1"
    assert rows["convolutions"]["choices"] == ["true", "false"]


def test_what_is_listed_can_be_typed() -> None:
    """Every command that the list prints gives exactly the default that it names."""
    for name, attack in attacks(build_plugin_manager()).items():
        for row in topic(name).values():
            assignment = row["typed"].split("--set ")[1]
            settings = resolve(attack.Config, parse_assignments([assignment])[name])
            assert settings == attack.Config(), assignment


def test_presets_are_shown_where_they_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console.stdout, "_width", 80)
    rows = topic("protect")
    text = invoke("protect").stdout
    assert rows["steps_outer"]["profiles"]["pocket"] != rows["steps_outer"]["default"]
    assert f"pocket {rows['steps_outer']['profiles']['pocket']}" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80
    assert all(row["key"] in text for row in rows.values())


def test_evaluate_has_options_and_only_those() -> None:
    rows = topic("evaluate")
    assert rows["images"]["typed"] == "apdm evaluate --images 30"
    text = invoke("evaluate").stdout
    assert "--class-images" in text and "neighbour_attack" not in rows


@pytest.mark.parametrize(
    ("word", "says"), [("lorra", "Did you mean lora"), ("protct", "Did you mean protect")]
)
def test_an_unknown_word_gets_the_nearest(word: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        invoke(word)


def test_a_key_is_told_from_a_topic() -> None:
    with pytest.raises(UsageError, match="rank is a setting of") as caught:
        invoke("rank")
    assert "lora" in caught.value.what and "apdm settings" in caught.value.hint
