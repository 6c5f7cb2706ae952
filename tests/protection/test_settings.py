"""Presets and the values that settings refuse."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from apdm_attacks.dreambooth import DreamBooth
from apdm_attacks.lora import Lora
from apdm_cli.config import describe, resolve
from apdm_cli.errors import ApdmError, UsageError
from apdm_cli.extension.manager import attacks, build_plugin_manager
from apdm_cli.pocket.samples import SUBJECTS
from apdm_cli.protection.prompts import (
    distillation_captions,
    pseudo_subjects,
    read_captions,
    training_subject,
)
from apdm_cli.protection.settings import PRESETS, ProtectionSettings, preset
from apdm_cli.subject import Subject
from apdm_protections.apdm import APDM
from apdm_protections.erase import Erase, teacher
from apdm_protections.kinds import pool
from apdm_protections.sophon import Sophon


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
        ({"attackers": {"kind": "persistent"}, "steps_inner": 0}, "steps_inner"),
        ({"margin": {"at_start": 0.5}, "steps_inner": 0}, "margin.at_start needs steps_inner"),
        (
            {"include_personalization_gradient": True, "steps_inner": 0},
            "include_personalization_gradient needs steps_inner",
        ),
        ({"attackers": {"ages": [400, 100]}}, "attackers.ages"),
        ({"attackers": {"rates": [0, 1]}}, "attackers.rates"),
        ({"attackers": {"pool": [{"atack": "lora"}]}}, "attackers.pool"),
        ({"margin": {"kind": "other"}}, "margin.kind"),
        ({"margin": {"one_sided": True}}, "one_sided is for margin.kind = relative only"),
        (
            {"attackers": {"kind": "persistent"}, "include_personalization_gradient": True},
            "include_personalization_gradient",
        ),
        ({"average": 1.0}, "average"),
        ({"average": 0.9, "average_last": 0.5}, "average = 0.9 and average_last = 0.5"),
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
    with pytest.raises(ApdmError, match=r"preservation\.captions /dev/zero .* is not opened"):
        read_captions("/dev/zero")


def test_the_documentation_has_every_setting_with_its_default() -> None:
    page = (Path(__file__).parents[2] / "docs" / "method.md").read_text(encoding="utf-8")
    rows = {
        line.split("|")[1].strip(): line for line in page.splitlines() if line.startswith("| `")
    }
    for setting in describe(ProtectionSettings):
        row = rows[f"`{setting.key}`"]
        if isinstance(setting.default, str):
            assert f"`{setting.default}`" in row, setting.key


# Of a simulated attack: what its own harness does, or the protection for it.
WITHOUT_EFFECT: tuple[dict[str, Any], ...] = (
    {"captions": True},
    {"masks": True},
    {"unmasked_weight": 0.5},
    {"photo_count": 1},
    {"clip_skip": 2},
    {"buckets": 8},
    {"accumulation": 2},
    {"ema": 0.9},
    {"steps": 77},
    {"prior_pictures": 3},
    {"sampler_steps": 3},
    {"sampler_guidance": 3.0},
)


def test_an_unknown_simulated_attack_is_refused_before_anything_is_loaded() -> None:
    known = attacks(build_plugin_manager())
    cases: list[tuple[dict[str, Any], str]] = [
        ({"path": {"attack": "dreamboth"}}, "path.attack: There is no attack 'dreamboth'"),
        ({"path": {"settings": {"rank": 3}}}, "path: rank"),
        ({"path": {"attack": "rounds"}}, "path.attack: rounds is not one training"),
        ({"path": {"attack": "ip-adapter"}}, "path.attack: ip-adapter is not one training"),
        ({"path": {"attack": "adaptive-objective"}}, "path.attack: adaptive-objective is not one"),
        (
            {"attackers": {"pool": [{}, {"attack": "lora", "settings": {"rang": 3}}]}},
            "attackers.pool, entry 2: rang",
        ),
    ]
    cases += [
        ({"path": {"settings": settings}}, f"path: {next(iter(settings))} is for attacks only")
        for settings in WITHOUT_EFFECT
    ]
    for changes, words in cases:
        with pytest.raises(UsageError, match=re.escape(words)):
            APDM().check(resolve(ProtectionSettings, changes), known)


@pytest.mark.parametrize("settings", WITHOUT_EFFECT)
def test_rivals_refuse_what_changes_nothing_in_what_they_simulate(settings: dict[str, Any]) -> None:
    known = attacks(build_plugin_manager())
    (option,) = settings
    for rival, where in ((Sophon(), "path"), (Erase(), "teacher")):
        with pytest.raises(UsageError, match=f"{where}: {option} is for attacks only"):
            rival.check(resolve(rival.Config, {where: settings}), known)


@pytest.mark.parametrize("name", ["rounds", "heal", "adaptive", "ip-adapter", "adaptive-objective"])
def test_sophon_simulates_single_trainings_only(name: str) -> None:
    with pytest.raises(UsageError, match=f"attack: {name} is not one training .*be simulated"):
        Sophon().check(resolve(Sophon.Config, {"attack": name}), attacks(build_plugin_manager()))


def test_an_unknown_attack_is_looked_for_among_those_that_can_be_simulated() -> None:
    known = attacks(build_plugin_manager())
    wanted = (
        (Sophon(), {"attack": "nothere"}, "attack"),
        (APDM(), {"path": {"attack": "nothere"}}, "path.attack"),
    )
    for protection, changes, setting in wanted:
        with pytest.raises(UsageError) as caught:
            protection.check(resolve(protection.Config, changes), known)
        assert caught.value.what == f"{setting}: There is no attack 'nothere'."
        assert "lora" in caught.value.hint and "rounds" not in caught.value.hint


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"export": "kohya"}, "export is for attacks only"),
        ({"prodigy_d0": 1e-4}, "prodigy_d0 is for optimizer = prodigy only"),
        ({"multires_iterations": 3}, "multires_iterations is for multires_noise above 0 only"),
    ],
)
def test_what_nothing_reads_in_a_simulated_lora_is_refused(
    settings: dict[str, Any], words: str
) -> None:
    known = attacks(build_plugin_manager())
    entry = {"attack": "lora", "settings": settings}
    with pytest.raises(UsageError, match=f"attackers.pool, entry 1: {words}"):
        pool(resolve(ProtectionSettings, {"attackers": {"pool": [entry]}}), known)
    with pytest.raises(UsageError, match=f"path: {words}"):
        Sophon().check(resolve(Sophon.Config, {"attack": "lora", "path": settings}), known)


def test_what_a_simulated_prodigy_reads_is_taken() -> None:
    known = attacks(build_plugin_manager())
    prodigy = {"optimizer": "prodigy", "prodigy_d0": 1e-4, "learning_rate": 1.0}
    noise = {"multires_noise": 0.3, "multires_iterations": 3}
    Sophon().check(resolve(Sophon.Config, {"path": {**prodigy, **noise}}), known)


def test_settings_of_simulated_attacks_may_repeat_their_defaults_and_fall_towards_their_end() -> (
    None
):
    known = attacks(build_plugin_manager())
    repeated = {next(iter(one)): DreamBooth.Config.model_fields[next(iter(one))].default
                for one in WITHOUT_EFFECT}  # fmt: skip
    falling = {"schedule": "cosine", "steps": 77}
    for settings in (repeated, falling):
        APDM().check(resolve(ProtectionSettings, {"path": {"settings": settings}}), known)
        Sophon().check(resolve(Sophon.Config, {"path": settings}), known)
    erase = resolve(Erase.Config, {"taught": 5, "teacher": {"schedule": "cosine"}})
    assert teacher(erase, known).config.steps == 5
    with pytest.raises(UsageError, match="teacher: steps"):
        teacher(resolve(Erase.Config, {"teacher": falling}), known)


@pytest.mark.parametrize("name", ["lora", "textual-inversion", "custom-diffusion"])
def test_a_gradient_that_an_attack_does_not_have_is_not_added(name: str) -> None:
    known = attacks(build_plugin_manager())
    code = preset("published-code")
    APDM().check(resolve(ProtectionSettings, code), known)
    with pytest.raises(UsageError, match=f"personalization_gradient: the attack {name} has no"):
        APDM().check(resolve(ProtectionSettings, code, {"path": {"attack": name}}), known)


def test_simulated_attacks_lie_over_the_settings_of_the_path() -> None:
    settings = resolve(
        ProtectionSettings,
        {
            "path": {"learning_rate": 1e-4, "prior_weight": 0.3},
            "attackers": {
                "pool": [{}, {"attack": "lora", "weight": 2, "settings": {"learning_rate": 1e-2}}]
            },
        },
    )
    plain, lora = pool(settings, {"dreambooth": DreamBooth(), "lora": Lora()})
    assert (plain.attack.name, plain.config.learning_rate, plain.weight) == ("dreambooth", 1e-4, 1)
    assert (lora.attack.name, lora.config.learning_rate, lora.weight) == ("lora", 1e-2, 2)
    assert lora.config.prior_weight == 0.3


@pytest.mark.parametrize(("noun", "share"), [("dog", 0.7), ("person", 0.7), ("dog", 1.0)])
def test_class_share_decides_how_many_captions_are_of_the_class(noun: str, share: float) -> None:
    kept = {
        "kind": "distill",
        "captions": "pocket-traits",
        "class_samples": 3,
        "caption_samples": 100,
        "class_share": share,
    }
    subject = Subject("someone", noun, "sks", None)  # type: ignore[arg-type]
    captions = distillation_captions(subject, resolve(ProtectionSettings, {"preservation": kept}))
    assert captions[:3] == (f"a photo of {noun}",) * 3 and len(captions) == 103
    assert sum(noun in caption.split() for caption in captions[3:]) == round(100 * share)
    if share < 1:
        rest = {word for word in ("person", "dog", "cat") if word != noun}
        assert rest <= {word for caption in captions for word in caption.split()}


def test_without_class_share_captions_come_as_they_are() -> None:
    subject = Subject("someone", "dog", "sks", None)  # type: ignore[arg-type]
    captions = distillation_captions(subject, loaded("pocket-plain"))
    assert list(captions[64 : 64 + 63]) == read_captions("pocket")


def test_pseudo_subjects_are_captions_with_traits_of_the_class() -> None:
    def captions(noun: str, **others: Any) -> tuple[str, ...]:
        subject = Subject("someone", noun, "sks", None)  # type: ignore[arg-type]
        settings = resolve(ProtectionSettings, {"others": {"count": 2, **others}})
        return pseudo_subjects(subject, settings)

    dogs = captions("dog", captions="pocket-traits", subjects=10)
    assert len(set(dogs)) == 10
    assert all(" dog with " in caption for caption in dogs)
    teapots = captions("teapot", captions="traits", subjects=4)
    assert len(set(teapots)) == 4 and all("teapot" in caption for caption in teapots)
    assert captions("dog", count=0) == captions("dog", folders=["somewhere"]) == ()
    with pytest.raises(UsageError, match="describes a teapot"):
        captions("teapot", captions="pocket-traits")


def test_the_pocket_model_knows_the_words_of_its_captions() -> None:
    file = SUBJECTS.parent / "pipeline" / "tokenizer" / "tokenizer.json"
    known = set(json.loads(file.read_text())["model"]["vocab"])
    for name in ("pocket", "pocket-traits"):
        words = {word for caption in read_captions(name) for word in caption.split()}
        assert words <= known
