"""One answer to "is this the pocket model?", and one profile, wherever they are asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from apdm_cli.cli.main import main
from apdm_cli.diffusion.saving import save_pipeline
from apdm_cli.extension.family import load_model
from apdm_cli.extension.manager import attacks, build_plugin_manager
from apdm_cli.pocket.profile import (
    POCKET,
    pocket_folder,
    profile_by_architecture,
    profile_of,
    profile_of_folder,
)
from apdm_cli.pocket.samples import sample
from apdm_cli.protection.settings import preset
from tests.tiny import make_tiny_pipeline

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pocket model at another place."""
    return Path(shutil.copytree(pocket_folder(), tmp_path_factory.mktemp("copy") / "model"))


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pocket model with other weights, as somebody else's protection leaves it."""
    folder = tmp_path_factory.mktemp("changed") / "model"
    model = load_model("pocket", CPU)
    with torch.no_grad():
        next(model.trained.parameters()).mul_(1.01)
    save_pipeline(model, folder)
    return folder


def apdm(*arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert not ended.value.code


def test_weights_say_whether_an_original_is_the_pocket_model(copied: Path, changed: Path) -> None:
    assert load_model("pocket", CPU).profile == "pocket"
    assert load_model(str(copied), CPU).profile == "pocket"
    assert load_model(str(changed), CPU).profile == ""
    assert profile_of("pocket", "0" * 64) == "pocket"
    assert [profile_of_folder(folder) for folder in (copied, changed)] == ["pocket", ""]
    assert profile_of_folder(copied / "nowhere") == ""


def test_the_architecture_says_it_where_the_original_is_not_known(
    copied: Path, changed: Path, tmp_path: Path
) -> None:
    assert profile_by_architecture(copied) == profile_by_architecture(changed) == "pocket"
    other = make_tiny_pipeline(tmp_path / "other", channels=(16, 32), text_layers=1)
    assert profile_by_architecture(other) == profile_by_architecture(tmp_path / "nowhere") == ""


def test_a_copy_is_protected_with_the_same_preset(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = []
    for model in ("pocket", str(copied)):
        apdm("protect", "--model", model, "--dry-run", "--json")
        shown.append(json.loads(capsys.readouterr().out))
    assert shown[0] == shown[1] and shown[0]["preset"] == "pocket"


@pytest.mark.parametrize("kind", ["copied", "changed"])
def test_attack_and_evaluation_agree_about_a_model_protected_elsewhere(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    model: Path = request.getfixturevalue(kind)
    out = ("--out", str(tmp_path / "runs"), "--device", "cpu")
    photos = ("--photos", str(sample("person-1").seen), "--subject-class", "person")
    quick = ("--set", "steps=1", "--set", "prior_pictures=1", "--set", "sampler_steps=1")
    apdm("attack", "--model", str(model), *photos, "--plugin", "dreambooth", *quick, *out)
    (cell,) = (tmp_path / "runs").glob("*/attacks/*/manifest.json")
    manifest = json.loads(cell.read_text())
    assert manifest["profile"] == "pocket"
    assert manifest["configuration"]["learning_rate"] == POCKET.attack["learning_rate"]
    apdm("evaluate", "--images", "1", "--steps", "2", "--metrics", "dino", *out)
    (scores,) = (tmp_path / "runs").glob("*/evaluation/scores.json")
    content: dict[str, Any] = json.loads(scores.read_text())
    assert content["sampler"]["sampler"] == POCKET.sampler == "ddim"
    assert content["sampler"]["guidance"] == POCKET.guidance == 3.0


def test_the_numbers_stand_once() -> None:
    """Attacks and presets of the pocket model begin with the profile's."""
    available = attacks(build_plugin_manager())
    assert available["dreambooth"].profiles["pocket"] == POCKET.attack
    for name in ("pocket", "pocket-long", "pocket-dreambooth"):
        table = preset(name)
        assert table["sampler_steps"] == POCKET.steps
        assert table["sampler_guidance"] == POCKET.guidance
        assert table["prior_pictures"] == POCKET.attack["prior_pictures"]
        assert table["path"]["learning_rate"] == POCKET.attack["learning_rate"]
        assert table["path"]["prior_weight"] == POCKET.attack["prior_weight"]
