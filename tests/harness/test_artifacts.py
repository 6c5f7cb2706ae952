"""Artifacts that do not fit say so; those that do leave the model alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from apdm_attacks.custom_diffusion import CustomDiffusion
from apdm_attacks.dreambooth import DreamBooth
from apdm_attacks.lora import Lora
from apdm_attacks.textual_inversion import TextualInversion
from apdm_cli.config import resolve
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.errors import ApdmError
from apdm_cli.extension.attack import Artifact, Attack
from apdm_cli.extension.family import load_model
from apdm_cli.extension.testing import synthetic_photos
from apdm_cli.harness.artifacts import load_attacked
from apdm_cli.harness.execute import run_attack
from apdm_cli.harness.workbench import Workbench
from apdm_cli.subject import Subject
from tests.harness.conftest import Place
from tests.tiny import make_tiny_pipeline

SETTINGS = {"steps": 1, "prior_pictures": 1, "sampler_steps": 1}


@pytest.fixture(scope="module")
def model(_template: Place) -> DiffusionModel:
    return load_model(str(_template.model), torch.device("cpu"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> DiffusionModel:
    """A model of another architecture: wider, with longer text embeddings."""
    folder = tmp_path_factory.mktemp("other") / "pipeline"
    make_tiny_pipeline(folder, channels=(64, 64), cross_attention_dim=64)
    return load_model(str(folder), torch.device("cpu"))


@pytest.mark.parametrize("attack", [DreamBooth(), Lora(), TextualInversion(), CustomDiffusion()])
def test_another_architecture_is_refused(
    attack: Attack, model: DiffusionModel, other: DiffusionModel, tmp_path: Path
) -> None:
    subject = Subject("s", "person", "sks", synthetic_photos(model.resolution))
    bench = Workbench(model, subject, 0, tmp_path, tmp_path / "cache")
    artifact = run_attack(attack, bench, resolve(attack.Config, SETTINGS))
    before = {name: value.clone() for name, value in model.trained.state_dict().items()}
    vocabulary = len(model.pipeline.tokenizer)
    load_attacked(model, artifact)
    assert all(torch.equal(before[name], now) for name, now in model.trained.state_dict().items())
    assert len(model.pipeline.tokenizer) == vocabulary
    with pytest.raises(ApdmError, match="does not fit"):
        load_attacked(other, artifact)


def test_nothing_there(model: DiffusionModel, tmp_path: Path) -> None:
    with pytest.raises(ApdmError, match="no artifact"):
        load_attacked(model, Artifact("lora", tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ApdmError, match="no artifact"):
        load_attacked(model, Artifact("lora", tmp_path / "empty"))
