"""Layers, assignments, TOML files, and what is said about keys that do not exist."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field, ValidationError

from apdm_cli.config import Settings, describe, merge, parse_assignments, read_toml, resolve
from apdm_cli.errors import UsageError


class Preservation(Settings):
    weight: float = Field(1.0, description="λ of the paper")
    batch_size: int = 4


class Protect(Settings):
    beta: float = Field(1.0, gt=0)
    objective: Literal["dpo", "naive"] = "dpo"
    steps: int = 10
    identifier: str = "sks"
    limit: int | None = 5
    preview: bool = False
    preservation: Preservation = Preservation()


def test_defaults_when_nothing_is_given() -> None:
    assert resolve(Protect) == Protect()


def test_later_layers_win_key_by_key() -> None:
    preset = {"beta": 2.0, "preservation": {"weight": 3.0, "batch_size": 8}}
    file = {"preservation": {"weight": 5.0}}
    settings = resolve(Protect, preset, file, {"steps": 7})
    assert settings.beta == 2.0
    assert settings.preservation == Preservation(weight=5.0, batch_size=8)
    assert settings.steps == 7


def test_merge_leaves_its_layers_alone() -> None:
    preset = {"a": {"b": 1}}
    merged = merge(preset, {"a": {"c": 2}})
    merged["a"]["b"] = 9
    assert preset == {"a": {"b": 1}}


def test_unknown_key_names_the_nearest_and_all_valid_ones() -> None:
    with pytest.raises(UsageError) as caught:
        resolve(Protect, {"betta": 1.0})
    assert caught.value.what == "betta: unknown setting. Did you mean beta?"
    assert "beta, objective, steps, identifier" in caught.value.hint
    assert "preservation.weight" in caught.value.hint


def test_unknown_key_in_a_table() -> None:
    with pytest.raises(UsageError, match=r"preservation\.wieght: .* Did you mean preservation\.w"):
        resolve(Protect, {"preservation": {"wieght": 1.0}})


def test_a_setting_in_the_wrong_table_is_found() -> None:
    with pytest.raises(UsageError, match=r"batch_size: .*preservation\.batch_size"):
        resolve(Protect, {"batch_size": 1})


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ({"steps": "many"}, "steps: this has to be a whole number, and 'many' is not"),
        ({"steps": 1.5}, "steps: this has to be a whole number, and 1.5 is not"),
        ({"beta": -1}, "beta: this has to be greater than 0, got -1"),
        ({"objective": "dop"}, "objective: this has to be 'dpo' or 'naive', got 'dop'"),
        ({"preservation": {"weight": "x"}}, r"preservation\.weight: this has to be a number, "),
        ({"preservation": 3}, "preservation: "),
    ],
)
def test_bad_value_names_key_and_value(layer: dict[str, Any], expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        resolve(Protect, layer)


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        resolve(Protect, {"betta": 1, "steps": "many"})
    assert len(caught.value.what.splitlines()) == 2


def test_the_word_none_is_null_only_where_null_is_allowed() -> None:
    assert resolve(Protect, {"limit": "none"}).limit is None
    assert resolve(Protect, {"identifier": "none"}).identifier == "none"
    with pytest.raises(UsageError, match="steps"):
        resolve(Protect, {"steps": "none"})


def test_resolved_settings_do_not_change() -> None:
    settings = resolve(Protect)
    with pytest.raises(ValidationError):
        settings.beta = 2.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("1e-5", 1e-5),
        ("true", True),
        ("[1, 2]", [1, 2]),
        ('"two words"', "two words"),
        ("dpo", "dpo"),
        ("a person's face", "a person's face"),
        ("../photos/x.png", "../photos/x.png"),
        ("2024-05-01", "2024-05-01"),
        ("1\ny = 2", "1\ny = 2"),
        ("a=b", "a=b"),
        ("", ""),
    ],
)
def test_assignment_values(text: str, value: Any) -> None:
    parsed = parse_assignments([f"key={text}"])["key"]
    assert parsed == value
    assert type(parsed) is type(value)


def test_assignments_nest_and_the_last_one_wins() -> None:
    parsed = parse_assignments(["a.b=1", "a.c.d=word", "a.b=2", "e = 3"])
    assert parsed == {"a": {"b": 2, "c": {"d": "word"}}, "e": 3}


@pytest.mark.parametrize("assignment", ["beta", "=1", "a..b=1", ".a=1", "a.=1"])
def test_malformed_assignments(assignment: str) -> None:
    with pytest.raises(UsageError, match="expected key=value"):
        parse_assignments([assignment])


@pytest.mark.parametrize("assignments", [["a=1", "a.b=2"], ["a.b=2", "a=1"]])
def test_a_value_and_a_table_under_one_key_contradict(assignments: list[str]) -> None:
    with pytest.raises(UsageError, match="already"):
        parse_assignments(assignments)


def test_assignments_reach_the_model_with_their_types() -> None:
    settings = resolve(
        Protect,
        parse_assignments(["beta=.5", "preview=True", "identifier=123", "preservation.weight=2"]),
    )
    assert settings.beta == 0.5
    assert settings.preview is True
    assert settings.identifier == "123"
    assert settings.preservation.weight == 2.0


def test_toml_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("beta = 2\n[preservation]\nweight = 0.5\n", encoding="utf-8")
    assert resolve(Protect, read_toml(file)).preservation.weight == 0.5


@pytest.mark.parametrize("content", [b"beta = ", b"\xff\xfe\x00", None])
def test_unreadable_toml_names_the_file(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "mine.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=r"mine\.toml"):
        read_toml(file)


def test_a_folder_is_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_toml(tmp_path)


def test_a_list_of_tables_is_one_setting() -> None:
    class Entry(Settings):
        name: str = Field("", description="its name")

    class WithEntries(Settings):
        entries: tuple[Entry, ...] = Field((), description="some entries")
        one: Entry | None = Field(None, description="a table, or nothing")

    described = {setting.key: setting.kind for setting in describe(WithEntries)}
    assert described == {"entries": "list: table", "one.name": "text"}


def test_describe_lists_leaves_with_defaults_and_texts() -> None:
    rows = {row.key: row for row in describe(Protect)}
    assert list(rows)[-2:] == ["preservation.weight", "preservation.batch_size"]
    assert rows["preservation.weight"].description == "λ of the paper"
    assert rows["limit"].default == 5
    assert rows["steps"].type == "int"
