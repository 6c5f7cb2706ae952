"""Artifacts that do not fit say so; those that do leave the model alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from apdm_attacks.components import Components
from apdm_attacks.custom_diffusion import CustomDiffusion
from apdm_attacks.dreambooth import DreamBooth
from apdm_attacks.heal import Heal
from apdm_attacks.lora import Lora
from apdm_attacks.rounds import Rounds
from apdm_attacks.textual_inversion import TextualInversion
from apdm_cli.config import resolve
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.errors import ApdmError
from apdm_cli.extension.attack import Artifact, Attack
from apdm_cli.extension.family import load_model
from apdm_cli.harness.artifacts import load_attacked
from apdm_cli.harness.execute import run_attack
from apdm_cli.harness.workbench import Workbench
from apdm_cli.subject import Subject
from apdm_cli.testing import synthetic_photos
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


class Scaled(DreamBooth):
    """Trains everything, and keeps the mean change of the weights as its only number."""

    name = "scaled"
    kinds = ("one-number",)

    def trainable(self, model: DiffusionModel, subject: Subject, config: Any) -> OneNumber:
        return OneNumber(model, subject)

    def load(self, model: DiffusionModel, folder: Path) -> DiffusionModel:
        private = model.private_copy()
        with torch.no_grad():
            next(iter(private.trained.parameters())).add_(float((folder / "number").read_text()))
        return private


class OneNumber(Components):
    """All weights of the U-Net."""

    def save(self, folder: Path) -> Artifact:
        """In a format that nobody else has."""
        (folder / "number").write_text("0.5")
        return Artifact("one-number", folder)


def test_a_kind_of_its_own_is_opened_by_the_attack_that_names_it(
    model: DiffusionModel, tmp_path: Path
) -> None:
    subject = Subject("s", "person", "sks", synthetic_photos(model.resolution))
    available: dict[str, Attack] = {"scaled": Scaled(), "rounds": Rounds()}
    bench = Workbench(model, subject, 0, tmp_path, tmp_path / "cache", attacks=available)
    config = Rounds().configure("", [SETTINGS, {"attack": "scaled", "rounds": 1}], available)
    artifact = run_attack(Rounds(), bench, config)
    assert artifact.kind == "one-number"
    opened = load_attacked(model, artifact, available)
    pairs = list(zip(opened.trained.parameters(), model.trained.parameters(), strict=True))
    assert torch.allclose(pairs[0][0], pairs[0][1] + 0.5)
    assert all(torch.equal(now, before) for now, before in pairs[1:])
    with pytest.raises(ApdmError, match="No installed attack opens artifacts of the kind"):
        load_attacked(model, artifact)


def test_what_follows_a_healing_needs_the_healed_model(
    model: DiffusionModel, tmp_path: Path
) -> None:
    subject = Subject("s", "person", "sks", synthetic_photos(model.resolution))
    bench = Workbench(model, subject, 0, tmp_path, tmp_path / "cache")
    heal = Heal()
    settings = {**SETTINGS, "attack": "lora", "rank": 2, "heal_steps": 1, "heal_pictures": 1}
    config = heal.configure("", [settings], {"lora": Lora()})
    artifact = run_attack(heal, bench, config)
    assert artifact.kind == "healed"
    opened = load_attacked(model, artifact)
    healed = load_attacked(model, Artifact("pipeline", artifact.path))
    mine = dict(healed.trained.named_parameters())
    for name, weight in opened.trained.named_parameters():
        plain = name.replace(".base_layer", "")
        assert "lora" in name or torch.equal(weight, mine[plain])
    assert any("lora" in name for name, _ in opened.trained.named_parameters())
    first = next(iter(mine.values()))
    assert not torch.equal(first, next(iter(model.trained.parameters())))
