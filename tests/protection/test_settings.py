"""Presets and the values that settings refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from apdm_cli.config import describe, resolve
from apdm_cli.errors import UsageError
from apdm_cli.protection.prompts import read_captions, training_subject
from apdm_cli.protection.settings import PRESETS, ProtectionSettings, preset
from apdm_cli.subject import Subject


def loaded(name: str) -> ProtectionSettings:
    return resolve(ProtectionSettings, preset(name))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid(name: str) -> None:
    assert loaded(name).steps_outer > 0


def test_paper_preset_has_the_papers_numbers() -> None:
    paper = loaded("paper")
    assert (paper.steps_outer, paper.steps_inner, paper.prior_pictures) == (800, 20, 200)
    assert paper.learning_rate == paper.path.learning_rate == 5e-6
    assert (paper.beta, paper.batch_size, paper.objective) == (1.0, 1, "dpo")
    assert (paper.preservation.kind, paper.preservation.weight) == ("class-pictures", 1.0)
    assert paper.path.prior_weight == 1.0
    assert paper.prompt_style == "clean"
    assert not paper.include_personalization_gradient
    assert paper == ProtectionSettings()


def test_published_code_differs_from_the_paper_in_the_named_differences_only() -> None:
    code, paper = loaded("published-code").model_dump(), loaded("paper").model_dump()
    changed = {name for name in code if code[name] != paper[name]}
    assert changed == {"include_personalization_gradient", "prompt_style"}
    assert code["dpo_reduction"] == "element"


def test_unknown_preset_lists_the_known() -> None:
    with pytest.raises(UsageError, match="published-code"):
        preset("papper")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"timestep_range": [0.6, 0.2]}, "timestep_range"),
        ({"timestep_range": [0.0, 1.5]}, "timestep_range"),
        ({"path": {"timestep_range": [0.5, 0.5]}}, "path.timestep_range"),
        ({"betas": [0.9, 1.0]}, "betas"),
        ({"beta": 0}, "beta"),
        ({"steps_inner": 3, "protect_every": 4}, "protect_every = 4"),
        ({"preservation": {"identifier_share": 0.6, "empty_share": 0.6}}, "identifier_share"),
        ({"preservation": {"kind": "nothing"}}, "preservation.kind"),
        ({"objective": "other"}, "objective"),
    ],
)
def test_impossible_values_are_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        resolve(ProtectionSettings, changes)


def test_protect_every_does_not_matter_without_a_path() -> None:
    assert resolve(ProtectionSettings, {"steps_inner": 0, "protect_every": 4}).steps_inner == 0


def test_every_setting_is_described() -> None:
    assert [
        setting.key for setting in describe(ProtectionSettings) if not setting.description
    ] == []


def test_training_prompts() -> None:
    subject = Subject("someone", "person", "sks", None)  # type: ignore[arg-type]

    def prompts(style: str) -> tuple[str, str]:
        named = training_subject(subject, style)
        return named.personal_prompt, named.class_prompt

    assert prompts("clean") == ("a photo of sks person", "a photo of person")
    assert prompts("published") == ('"a_photo_of_sks_person"', '"a_photo_of_person"')


def test_captions_come_from_a_set_or_a_file(tmp_path: Any) -> None:
    assert len(read_captions("general")) > 30
    file = tmp_path / "mine.txt"
    file.write_text("a photo of snow\n\n a red hat \n", encoding="utf-8")
    assert read_captions(str(file)) == ["a photo of snow", "a red hat"]
    for text in ("", "\n\n"):
        file.write_text(text)
        with pytest.raises(UsageError, match="no caption"):
            read_captions(str(file))
    with pytest.raises(UsageError, match="captions"):
        read_captions(str(tmp_path / "missing.txt"))


def test_the_documentation_has_every_setting_with_its_default() -> None:
    page = (Path(__file__).parents[2] / "docs" / "method.md").read_text(encoding="utf-8")
    rows = {
        line.split("|")[1].strip(): line for line in page.splitlines() if line.startswith("| `")
    }
    for setting in describe(ProtectionSettings):
        row = rows[f"`{setting.key}`"]
        if isinstance(setting.default, str):
            assert f"`{setting.default}`" in row, setting.key
