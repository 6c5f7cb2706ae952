"""The attack that trains nothing, with random weights of the real classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from apdm_attacks.ip_adapter import IPAdapter
from apdm_cli.config import resolve
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.pictures import from_unit
from apdm_cli.diffusion.sampling import SamplerSettings, initial_latents, sample
from apdm_cli.errors import ApdmError
from apdm_cli.extension.attack import Artifact
from apdm_cli.extension.family import load_model
from apdm_cli.harness.artifacts import load_attacked
from apdm_cli.harness.execute import run_attack
from apdm_cli.harness.workbench import Workbench
from apdm_cli.subject import Subject
from apdm_cli.testing import synthetic_photos
from tests.harness.conftest import Place
from tests.harness.test_attack_command import attack, rows
from tests.tiny import make_tiny_pipeline

ENCODED, TEXT = 24, 32  # widths of the image encoder's embeddings and of the text encoder's
PROMPT = "a photo of person"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "pipeline"
    return make_tiny_pipeline(folder, channels=(32, 32), text_layers=1)


@pytest.fixture(scope="module")
def model(base: Path) -> DiffusionModel:
    return load_model(str(base), torch.device("cpu"))


def make_weights(folder: Path, model: DiffusionModel, kind: str = "plain", seed: int = 0) -> Path:
    """An adapter for `model` in its authors' layout, with an image encoder; returns `folder`."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        **{"hidden_size": 16, "intermediate_size": 32, "projection_dim": ENCODED},
        **{"num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16, "patch_size": 8},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        CLIPVisionModelWithProjection(config).save_pretrained(folder / "image_encoder")
        state = _plus(16) if kind == "plus" else _plain()
        network: Any = model.trained
        crossing = [name for name in network.attn_processors if ".attn2." in name]
        for index, name in enumerate(crossing):
            size = network.get_submodule(name.removesuffix(".processor")).to_k.weight.shape[0]
            for part in ("to_k_ip", "to_v_ip"):
                state[f"ip_adapter.{2 * index + 1}.{part}.weight"] = torch.randn(size, TEXT)
    save_file(state, folder / "adapter.safetensors")
    return folder


def _plain() -> dict[str, Tensor]:
    shapes = {"proj.weight": (4 * TEXT, ENCODED), "proj.bias": (4 * TEXT,)}
    shapes |= {"norm.weight": (TEXT,), "norm.bias": (TEXT,)}
    return {f"image_proj.{name}": torch.randn(shape) for name, shape in shapes.items()}


def _plus(width: int) -> dict[str, Tensor]:
    """The resampler of "plus" adapters, which reads the encoder's last layer but one."""
    from diffusers.models.embeddings import IPAdapterPlusImageProjection

    made = IPAdapterPlusImageProjection(width, TEXT, hidden_dims=64, heads=1, num_queries=2)
    theirs = {"ln0": "0.norm1", "ln1": "0.norm2"}
    theirs |= {"attn.to_q": "0.to_q", "attn.to_out.0": "0.to_out"}
    theirs |= {"ff.0": "1.0", "ff.1.net.0.proj": "1.1", "ff.1.net.2": "1.3"}
    state = {}
    for name, value in made.state_dict().items():
        for ours, other in theirs.items():
            name = name.replace(f".{ours}.", f".{other}.")
        state[name] = value
    for block in range(len(made.layers)):
        pair = [state.pop(f"layers.{block}.attn.{part}.weight") for part in ("to_k", "to_v")]
        state[f"layers.{block}.0.to_kv.weight"] = torch.cat(pair)
    return {f"image_proj.{name}": value.clone() for name, value in state.items()}


def _attack(
    model: DiffusionModel, folder: Path, weights: Path | str, **settings: Any
) -> tuple[Artifact, Workbench]:
    folder.mkdir(parents=True)
    subject = Subject("s", "person", "sks", synthetic_photos(model.resolution))
    bench = Workbench(model, subject, 0, folder, folder / "cache")
    config = resolve(IPAdapter.Config, {"weights": str(weights), **settings})
    return run_attack(IPAdapter(), bench, config), bench


def _draw(model: DiffusionModel, guidance: float = 3.0) -> Tensor:
    settings = SamplerSettings(sampler="ddim", steps=4, guidance=guidance)
    return torch.cat(list(sample(model, [PROMPT] * 2, [0, 1], settings)))


def _plain_diffusers(base: Path, model: DiffusionModel, load: Any, **shown: Any) -> Tensor:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(base)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    load(pipe)
    start = initial_latents(model, [0, 1])
    how = {"num_inference_steps": 4, "guidance_scale": 3.0, "latents": start, "output_type": "pt"}
    return from_unit(pipe([PROMPT] * 2, **how, **shown).images)


@pytest.mark.parametrize("kind", ["plain", "plus"])
def test_the_artifact_draws_what_the_photos_draw_in_plain_diffusers(
    base: Path, model: DiffusionModel, tmp_path: Path, kind: str
) -> None:
    from PIL import Image

    weights = make_weights(tmp_path / "weights", model, kind)
    artifact, bench = _attack(model, tmp_path / "cell", weights, scale=0.5)
    ours = _draw(load_attacked(model, artifact))
    assert bench.steps_taken == 0 and not torch.equal(ours, _draw(model))

    def with_artifact(pipe: Any) -> None:
        name = "ip_adapter.safetensors"
        pipe.load_ip_adapter(
            artifact.path, subfolder="", weight_name=name, image_encoder_folder=None
        )

    embeds = load_file(artifact.path / "image_embeds.safetensors")["image_embeds"]
    shown = _plain_diffusers(base, model, with_artifact, ip_adapter_image_embeds=[embeds])
    assert torch.equal(shown, ours)

    def with_weights(pipe: Any) -> None:
        pipe.load_ip_adapter(weights, subfolder="", weight_name="adapter.safetensors")
        pipe.set_ip_adapter_scale(0.5)

    photos = from_unit(bench.subject.photos.pixels / 2 + 0.5)
    pictures = [Image.fromarray(photo.numpy()) for photo in photos]
    from_photos = _plain_diffusers(base, model, with_weights, ip_adapter_image=[pictures])
    assert (from_photos.int() - ours.int()).abs().max() <= 1


def test_it_draws_without_guidance_and_keeps_no_photo(
    model: DiffusionModel, tmp_path: Path
) -> None:
    weights = make_weights(tmp_path / "weights", model)
    artifact, bench = _attack(model, tmp_path / "cell", weights)
    attacked = load_attacked(model, artifact)
    assert not torch.equal(_draw(attacked, guidance=1.0), _draw(model, guidance=1.0))
    kept = load_file(artifact.path / "image_embeds.safetensors")
    count = len(bench.subject.photos)
    assert {name: tuple(value.shape) for name, value in kept.items()} == {
        "image_embeds": (2, count, ENCODED)
    }


def test_the_command_knows_the_weights_by_their_content(place: Place, tmp_path: Path) -> None:
    model = load_model(str(place.model), torch.device("cpu"))
    first = make_weights(tmp_path / "first", model)
    moved = make_weights(tmp_path / "moved", model)
    other = make_weights(tmp_path / "other", model, seed=1)

    def attacked(weights: Path) -> list[dict[str, Any]]:
        options = ("--plugin", "ip-adapter", "--set", f"ip-adapter.weights={weights}")
        return rows(attack(place, *options, "--budgets", "0.5,1,3", "--json", quick=False))

    done = attacked(first)
    assert [(row["arm"], row["status"]) for row in done] == [
        ("original", "done"),
        ("protected", "done"),
    ]
    manifest = json.loads((Path(done[1]["path"]) / "manifest.json").read_text())
    assert manifest["stops"] == [{"budget": 1, "steps": 0, "pictures": None}]
    assert (manifest["artifact"]["kind"], manifest["prompt_word"]) == ("ip-adapter", "")
    assert [row["status"] for row in attacked(moved)] == ["cached", "cached"]
    assert [row["status"] for row in attacked(other)] == ["done", "done"]


def test_without_weights_the_command_says_what_to_download(place: Place) -> None:
    with pytest.raises(ApdmError, match="ip-adapter has no weights") as missing:
        attack(place, "--plugin", "ip-adapter", quick=False)
    assert "h94/IP-Adapter" in str(missing.value.hint)
    assert "ip-adapter.weights=FOLDER" in str(missing.value.hint)


def test_weights_that_cannot_be_used_are_refused(model: DiffusionModel, tmp_path: Path) -> None:
    weights = make_weights(tmp_path / "weights", model)
    adapter = load_file(weights / "adapter.safetensors")

    def refused(**settings: Any) -> str:
        with pytest.raises(ApdmError) as error:
            cell = tmp_path / f"cell {len(list(tmp_path.iterdir()))}"
            _attack(model, cell, weights, **settings)
        return error.value.what

    save_file(adapter, weights / "second.safetensors")
    assert "several adapters (adapter.safetensors, second.safetensors)" in refused()
    assert "has no third.safetensors" in refused(file="third.safetensors")
    narrow = {name: value[..., :-1].contiguous() for name, value in adapter.items()}
    save_file(narrow, weights / "second.safetensors")
    assert "does not fit the model" in refused(file="second.safetensors")
    faces = ("image_proj.proj.0.weight", "ip_adapter.1.to_k_ip.weight")
    save_file({name: torch.ones(2, 2) for name in faces}, weights / "second.safetensors")
    assert "face recognizer" in refused(file="second.safetensors")
    (weights / "second.safetensors").unlink()
    (weights / "image_encoder" / "config.json").unlink()
    assert "has no image_encoder/" in refused()
