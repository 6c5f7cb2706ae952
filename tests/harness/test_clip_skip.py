"""An earlier layer of the text encoder, in training and in drawing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from apdm_attacks.dreambooth_text import DreamBoothText
from apdm_attacks.lora import Lora
from apdm_cli.config import resolve
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.pictures import from_unit
from apdm_cli.diffusion.sampling import SamplerSettings, initial_latents, sample
from apdm_cli.errors import ApdmError, UsageError
from apdm_cli.extension.attack import Artifact, Attack
from apdm_cli.extension.family import load_model
from apdm_cli.harness.artifacts import load_attacked
from apdm_cli.harness.execute import run_attack
from apdm_cli.harness.workbench import Workbench
from apdm_cli.subject import Subject
from apdm_cli.testing import synthetic_photos
from apdm_families.stable_diffusion_xl import StableDiffusionXL
from tests.tiny import make_tiny_pipeline

PROMPT = "a photo of sks person"
LAYERS = 3


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "pipeline"
    return make_tiny_pipeline(folder, channels=(32, 32), text_layers=LAYERS)


@pytest.fixture(scope="module")
def model(base: Path) -> DiffusionModel:
    return load_model(str(base), torch.device("cpu"))


def _attack(
    attack: Attack, model: DiffusionModel, folder: Path, **settings: Any
) -> tuple[Artifact, Workbench]:
    folder.mkdir()
    subject = Subject("s", "person", "sks", synthetic_photos(model.resolution))
    bench = Workbench(model, subject, 0, folder, folder / "cache")
    quick = {"steps": 2, "prior_weight": 0.0, "learning_rate": 0.05, "clip_skip": 2}
    return run_attack(attack, bench, resolve(attack.Config, quick, settings)), bench


def _draw(model: DiffusionModel) -> Tensor:
    settings = SamplerSettings(sampler="ddim", steps=4, guidance=3.0)
    return torch.cat(list(sample(model, [PROMPT] * 2, [0, 1], settings)))


def test_the_layer_is_read_through_the_final_norm(model: DiffusionModel) -> None:
    """As kohya reads it: hidden_states[-clip_skip], and the norm after the last layer."""
    encoder = model.component("text_encoder")
    tokens = model.component("tokenizer")(
        [PROMPT], padding="max_length", max_length=16, return_tensors="pt"
    )
    hidden = encoder(tokens.input_ids, output_hidden_states=True).hidden_states
    for clip_skip in (2, 3):
        private = model.private_copy()
        private.family.skip_text_layers(private.components, clip_skip - 1)
        norm = getattr(encoder, "text_model", encoder).final_layer_norm
        expected = norm(hidden[-clip_skip])
        assert torch.equal(private.encode_text([PROMPT])["text"], expected)


def test_what_was_trained_so_is_drawn_so(base: Path, model: DiffusionModel, tmp_path: Path) -> None:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    untouched = _draw(model)
    artifact, bench = _attack(Lora(), model, tmp_path / "cell", rank=2)
    assert json.loads((artifact.path / "clip_skip.json").read_text()) == {"clip_skip": 2}
    drawn = _draw(load_attacked(model, artifact))
    assert torch.equal(drawn, _draw(bench.model))
    assert torch.equal(untouched, _draw(model)), "the attacked model itself reads all layers"

    pipe = StableDiffusionPipeline.from_pretrained(base)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.load_lora_weights(artifact.path)
    how = {"num_inference_steps": 4, "guidance_scale": 3.0, "output_type": "pt"}

    def plain() -> Tensor:
        start = initial_latents(model, [0, 1])
        return from_unit(pipe([PROMPT] * 2, latents=start, **how).images)

    assert not torch.equal(plain(), drawn)
    text = getattr(pipe.text_encoder, "text_model", pipe.text_encoder)
    del text.encoder.layers[-1:]
    assert torch.equal(plain(), drawn)

    other, _ = _attack(Lora(), model, tmp_path / "other", rank=2, clip_skip=1)
    assert not (other.path / "clip_skip.json").exists()
    (file,) = artifact.path.glob("*.safetensors")
    pairs = load_file(file), load_file(other.path / file.name)
    assert any(not torch.equal(pairs[0][name], pairs[1][name]) for name in pairs[0])


def test_the_layer_that_is_skipped_does_not_train(model: DiffusionModel, tmp_path: Path) -> None:
    artifact, _ = _attack(DreamBoothText(), model, tmp_path / "cell")
    (file,) = (artifact.path / "text_encoder").glob("*.safetensors")
    now, before = load_file(file), model.component("text_encoder").state_dict()
    moved = {
        layer
        for layer in range(LAYERS)
        for name, value in before.items()
        if f"layers.{layer}." in name and not torch.equal(now[name], value)
    }
    assert moved == {0, 1}


def test_where_there_is_no_such_layer_it_is_said(model: DiffusionModel, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"clip_skip: 4 is more .* has 3 layers"):
        _attack(Lora(), model, tmp_path / "cell", rank=2, clip_skip=4)
    with pytest.raises(ApdmError, match="clip_skip: Stable Diffusion XL"):
        StableDiffusionXL().skip_text_layers({}, 1)
