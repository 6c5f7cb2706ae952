"""Stable Diffusion XL, from a folder or a file through every command, and in plain diffusers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from apdm_cli.cli.main import main
from apdm_cli.diffusion.denoiser import NoisyDraw
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.process import Diffusion
from apdm_cli.diffusion.sampling import SamplerSettings, initial_latents, sample
from apdm_cli.errors import ApdmError
from apdm_cli.extension.attack import Artifact
from apdm_cli.extension.family import load_model
from apdm_cli.harness.artifacts import load_attacked
from tests.attacks import plain_diffusers
from tests.families.desk import Desk
from tests.families.tiny_xl import POOLED, WIDTHS, make_tiny_xl
from tests.tiny import MAX_LENGTH

CPU = torch.device("cpu")
PROMPTS = ["a photo of sks person", "a photo of dog in the snow"]
ATTACKS = ("dreambooth", "dreambooth-text", "lora", "textual-inversion", "custom-diffusion")
PERSISTENT = (
    *("attackers.kind=persistent", "attackers.ages=[2, 4]", "margin.kind=relative"),
    "steps_inner=1",
)
OWN_SAMPLER = SamplerSettings(sampler="euler", steps=4, guidance=3.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that tests only look at."""
    return make_tiny_xl(tmp_path_factory.mktemp("tiny") / "xl")


@pytest.fixture(scope="module")
def desk(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """All four commands have run."""
    desk = Desk(tmp_path_factory.mktemp("desk"), folder, "xl")
    desk.all_four(ATTACKS, ("lora.rank=2",), PERSISTENT)
    return desk


@pytest.fixture
def broken(folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(folder, tmp_path / "model"))


def load(source: Path, dtype: torch.dtype = torch.float32) -> DiffusionModel:
    return load_model(str(source), CPU, dtype)


# What the U-Net is told


def test_the_condition_is_what_the_pipeline_encodes(folder: Path) -> None:
    condition = load(folder).encode_text(PROMPTS)
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder)
    with torch.no_grad():
        text, _, pooled, _ = pipeline.encode_prompt(PROMPTS, do_classifier_free_guidance=False)
    assert text.shape == (2, MAX_LENGTH, sum(WIDTHS)) and pooled.shape == (2, POOLED)
    assert torch.equal(condition["text"], text) and torch.equal(condition["pooled"], pooled)
    sizes = pipeline._get_add_time_ids((64, 64), (0, 0), (64, 64), torch.float32, POOLED)
    assert torch.equal(condition["sizes"], sizes.repeat(2, 1))


def test_the_denoiser_is_the_unet_with_added_conditions(folder: Path) -> None:
    model = load(folder)
    condition = model.encode_text(PROMPTS)
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 2, *model.latent_shape, generator=generator)
    draw = NoisyDraw(latents, noise, torch.tensor([3, 800]))
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder)
    with torch.no_grad():
        (ours,) = model.denoiser.predict_each([draw], [condition])
        text, _, pooled, _ = pipeline.encode_prompt(PROMPTS, do_classifier_free_guidance=False)
        theirs = pipeline.unet(
            model.process.noised(*draw),
            draw.timesteps,
            encoder_hidden_states=text,
            added_cond_kwargs={
                "text_embeds": pooled,
                "time_ids": torch.tensor([[64, 64, 0, 0, 64, 64]] * 2),
            },
        ).sample
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ["text", "pooled", "sizes"])
def test_every_part_of_the_condition_is_read(folder: Path, name: str) -> None:
    model = load(folder)
    condition = model.encode_text(PROMPTS[:1])
    other = type(condition)({**condition.tensors, name: condition[name] + 1})
    latents = initial_latents(model, [0])
    draw = NoisyDraw(latents, latents, torch.tensor([500]))
    with torch.no_grad():
        one, two = model.denoiser.predict_each([draw, draw], [condition, other])
    assert not torch.allclose(one, two)


def test_gradients_reach_both_text_encoders(folder: Path) -> None:
    model = load(folder)
    encoders = [model.component(name) for name in model.family.text_encoders]
    for encoder in encoders:
        encoder.requires_grad_(True)
    condition = model.embed(PROMPTS)
    (condition["text"].sum() + condition["pooled"].sum()).backward()
    for encoder in encoders:
        assert encoder.get_input_embeddings().weight.grad.abs().max() > 0


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_training_noise_is_that_of_the_schedulers_betas(prediction: str, tmp_path: Path) -> None:
    """A folder with Euler's scheduler, whose sigmas are √((1 − ᾱ) / ᾱ) of the same ᾱ."""
    process = load(make_tiny_xl(tmp_path / "model", prediction_type=prediction)).process
    euler = EulerDiscreteScheduler.from_pretrained(tmp_path / "model", subfolder="scheduler")
    assert isinstance(process, Diffusion) and process.prediction_type == prediction
    assert torch.equal(process.alphas_cumprod, euler.alphas_cumprod)


# Through the commands, and out of them


def test_protection_trains_the_unet_and_keeps_the_rest(desk: Desk) -> None:
    model = desk.runs / "xl" / "model"
    kept = [file.relative_to(desk.model) for file in desk.model.rglob("*") if file.is_file()]
    assert {file.parts[0] for file in kept} > {"text_encoder_2", "tokenizer_2", "scheduler"}
    for file in kept:
        if file.parts[0] != "unet":
            assert (model / file).read_bytes() == (desk.model / file).read_bytes(), file
    name = "unet/diffusion_pytorch_model.safetensors"
    before, after = load_file(desk.model / name), load_file(model / name)
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[key], after[key]) for key in before)


def test_both_arms_of_every_attack_are_scored_and_compared(desk: Desk) -> None:
    scores = desk.read("evaluation/scores.json")
    assert scores["sampler"]["sampler"] == "euler" and scores["sampler"]["guidance"] == 5.0
    arms = {(row["attack"], row["arm"]) for row in scores["rows"] if row["role"] == "attack"}
    assert arms == {(attack, arm) for attack in ATTACKS for arm in ("original", "protected")}
    (run,) = desk.read("comparison.json")["runs"]
    assert {line["attack"] for line in run["lines"] if line["role"] == "attack"} == set(ATTACKS)


@pytest.fixture(scope="module")
def plain(desk: Desk, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Tensor, Tensor]]:
    """What apdm and plain diffusers draw: with the protected model, and with each artifact."""
    folder = tmp_path_factory.mktemp("plain")
    protected = desk.runs / "xl" / "model"
    model = load(protected)
    save_file({"latents": initial_latents(model, [0, 1])}, folder / "latents.safetensors")
    jobs: dict[str, dict[str, Any]] = {
        "protected": {"kind": "whole", "path": "", "prompt": PROMPTS[0]}
    }
    ours = {"protected": _draw(model, PROMPTS[0])}
    for manifest in (desk.runs / "xl" / "attacks").rglob("manifest.json"):
        cell = json.loads(manifest.read_text())
        if cell["arm"] != "protected":
            continue
        artifact = Artifact(cell["artifact"]["kind"], manifest.parent / cell["artifact"]["path"])
        prompt = f"a photo of {cell['prompt_word']} person"
        jobs[cell["attack"]] = {"kind": artifact.kind, "path": str(artifact.path), "prompt": prompt}
        ours[cell["attack"]] = _draw(load_attacked(model, artifact), prompt)
    for name, job in jobs.items():
        job |= {"base": str(protected), "own_scheduler": True, "out": str(folder / f"{name}.npy")}
    (folder / "jobs.json").write_text(json.dumps(list(jobs.values())))
    result = subprocess.run(
        [
            *(sys.executable, "-P", plain_diffusers.__file__),
            *(str(folder / "jobs.json"), str(folder / "latents.safetensors")),
        ],
        capture_output=True,
        text=True,
        cwd=folder,
        env={"PATH": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return {n: (ours[n], torch.from_numpy(np.load(folder / f"{n}.npy"))) for n in jobs}


@pytest.mark.parametrize("name", ["protected", *ATTACKS])
def test_plain_diffusers_draws_the_same_pixels(
    name: str, plain: dict[str, tuple[Tensor, Tensor]]
) -> None:
    ours, theirs = plain[name]
    assert ours.shape == (2, 64, 64, 3) and torch.equal(ours, theirs)
    if name != "protected":
        assert not torch.equal(ours, plain["protected"][0])


def _draw(model: DiffusionModel, prompt: str) -> Tensor:
    return torch.cat(list(sample(model, [prompt] * 2, [0, 1], OWN_SAMPLER)))
