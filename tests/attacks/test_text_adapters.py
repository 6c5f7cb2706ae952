"""LoRA on the text encoder: what is trained, at which rate, and in kohya's file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from apdm_attacks.healed import on_healed
from apdm_attacks.lora import Lora
from apdm_attacks.pivotal_tuning import PivotalTuning
from apdm_cli.config import resolve
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.sampling import SamplerSettings, sample
from apdm_cli.errors import ApdmError, UsageError
from apdm_cli.extension.attack import Artifact
from apdm_cli.extension.family import load_model
from apdm_cli.harness.artifacts import load_attacked
from apdm_cli.harness.execute import run_attack
from apdm_cli.harness.workbench import Workbench
from apdm_cli.subject import Subject
from apdm_cli.testing import synthetic_photos
from tests.families.tiny_xl import make_tiny_xl
from tests.tiny import make_tiny_pipeline

TEXT = "lora_te_text_model_encoder_layers_"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DiffusionModel:
    folder = tmp_path_factory.mktemp("tiny") / "pipeline"
    make_tiny_pipeline(folder, channels=(32, 32), text_layers=2)
    return load_model(str(folder), torch.device("cpu"))


def _attack(model: DiffusionModel, folder: Path, **settings: Any) -> tuple[Artifact, Workbench]:
    folder.mkdir()
    subject = Subject("s", "person", "sks", synthetic_photos(model.resolution))
    bench = Workbench(model, subject, 0, folder, folder / "cache")
    quick = {"steps": 2, "prior_weight": 0.0, "rank": 2, "learning_rate": 0.05}
    config = resolve(Lora.Config, quick, {"text_encoder": True, "alpha": 8}, settings)
    return run_attack(Lora(), bench, config), bench


def _draw(model: DiffusionModel) -> Tensor:
    settings = SamplerSettings(sampler="ddim", steps=4, guidance=3.0)
    return torch.cat(list(sample(model, ["a photo of sks person"] * 2, [0, 1], settings)))


def test_kohya_has_both_in_one_file_and_diffusers_reads_them(
    model: DiffusionModel, tmp_path: Path
) -> None:
    from diffusers import StableDiffusionPipeline

    settings = {"export": "kohya", "feed_forward": True}
    artifact, bench = _attack(model, tmp_path / "cell", **settings)
    assert torch.equal(_draw(load_attacked(model, artifact)), _draw(bench.model))
    (file,) = artifact.path.iterdir()
    state = load_file(file)
    text = {key.removeprefix(TEXT) for key in state if key.startswith(TEXT)}
    layers = [f"self_attn_{part}_proj" for part in ("q", "k", "v", "out")] + ["mlp_fc1", "mlp_fc2"]
    ends = ("lora_down.weight", "lora_up.weight", "alpha")
    assert text == {f"{n}_{layer}.{end}" for n in (0, 1) for layer in layers for end in ends}
    others = [key for key in state if not key.startswith(TEXT)]
    assert others and all(key.startswith("lora_unet_") for key in others)
    assert {float(value) for key, value in state.items() if key.endswith(".alpha")} == {8.0}

    # What its own loader would put on, were it not for the versions of peft and transformers.
    read, alphas = StableDiffusionPipeline.lora_state_dict(artifact.path)
    theirs = [key for key in read if key.startswith("text_encoder.text_model.encoder.layers.")]
    assert len(theirs) == 2 * 2 * len(layers)
    assert {value for key, value in alphas.items() if key.startswith("text_encoder.")} == {8.0}


def test_kohyas_file_tells_two_text_encoders_apart(tmp_path: Path) -> None:
    model = load_model(str(make_tiny_xl(tmp_path / "xl")), torch.device("cpu"))
    artifact, bench = _attack(model, tmp_path / "cell", export="kohya", steps=1)
    assert torch.equal(_draw(load_attacked(model, artifact)), _draw(bench.model))
    (file,) = artifact.path.iterdir()
    starts = {key.split("_text_model")[0] for key in load_file(file) if "_text_model" in key}
    assert starts == {"lora_te1", "lora_te2"}


def test_the_text_encoder_trains_at_its_own_rate(model: DiffusionModel, tmp_path: Path) -> None:
    """AdamW's first step is as long as its rate, whatever the gradient."""
    rates = {"steps": 1, "learning_rate": 0.05, "text_learning_rate": 0.01, "weight_decay": 0.0}
    artifact, _ = _attack(model, tmp_path / "cell", export="kohya", **rates)
    (file,) = artifact.path.iterdir()
    ups = {key: value for key, value in load_file(file).items() if key.endswith("lora_up.weight")}
    for start, rate in (("lora_te_", 0.01), ("lora_unet_", 0.05)):
        steps = [value.abs().max().item() for key, value in ups.items() if key.startswith(start)]
        assert max(steps) == pytest.approx(rate, rel=1e-2)


def test_whoever_trains_adapters_keeps_their_rates(model: DiffusionModel, tmp_path: Path) -> None:
    subject = Subject("s", "person", "sks", synthetic_photos(model.resolution))
    bench = Workbench(model, subject, 0, tmp_path, tmp_path / "cache")
    rates = {"learning_rate": 0.05, "text_learning_rate": 0.01, "text_encoder": True}
    for make in (bench.personalization, lambda *what: on_healed(bench, *what)):
        for attack in (Lora(), PivotalTuning()):
            bench.restart()
            made = make(attack, resolve(attack.Config, {"rank": 2}, rates))
            groups = made.trainable.groups()
            assert [group.get("relative_rate", 1) for group in groups] == pytest.approx([1, 0.2])
            in_groups = {id(weight) for group in groups for weight in group["params"]}
            assert in_groups == {id(weight) for weight in made.parameters}
            text = {id(weight) for weight in bench.model.component("text_encoder").parameters()}
            assert {id(weight) for weight in groups[1]["params"]} <= text


@pytest.mark.parametrize("also", [{}, {"text_encoder": True, "optimizer": "prodigy"}])
def test_a_rate_that_would_do_nothing_is_refused(also: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="text_learning_rate"):
        resolve(Lora.Config, {"text_learning_rate": 1e-4}, also)


def test_layers_that_the_text_encoder_has_not_are_said(
    model: DiffusionModel, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    artifact, _ = _attack(model, tmp_path / "cell")
    file = artifact.path / "text_encoder" / "adapter_model.safetensors"
    state = load_file(file)
    shifted = {key.replace("layers.1.", "layers.7."): value for key, value in state.items()}
    save_file(shifted, file)
    with pytest.raises(ApdmError, match="does not fit the model: the text encoder has no layer"):
        load_attacked(model, artifact)
