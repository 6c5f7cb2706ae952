"""Artifacts draw the same pixels for a user of plain diffusers, who has no apdm."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from apdm_attacks.custom_diffusion import CustomDiffusion
from apdm_attacks.dreambooth import DreamBooth
from apdm_attacks.dreambooth_text import DreamBoothText
from apdm_attacks.lora import Lora
from apdm_attacks.pivotal_tuning import PivotalTuning
from apdm_attacks.textual_inversion import TextualInversion
from apdm_cli.config import resolve
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.sampling import SamplerSettings, initial_latents, sample
from apdm_cli.extension.attack import Artifact, Attack
from apdm_cli.extension.family import load_model
from apdm_cli.harness.artifacts import load_attacked
from apdm_cli.harness.execute import run_attack
from apdm_cli.harness.workbench import Workbench
from apdm_cli.subject import Subject
from apdm_cli.testing import synthetic_photos
from tests.tiny import make_tiny_pipeline

STEPS = {"steps": 3, "prior_pictures": 2, "sampler_steps": 2}
SMALL = {**STEPS, "rank": 2, "alpha": 8, "learning_rate": 0.05}
CASES: dict[str, tuple[Attack, dict[str, Any]]] = {
    "full": (DreamBooth(), {**STEPS, "learning_rate": 1e-2}),
    "full with text": (DreamBoothText(), {**STEPS, "learning_rate": 1e-2}),
    "lora": (Lora(), SMALL),
    "lora on convolutions": (Lora(), {**SMALL, "convolutions": True}),
    "lora on feed-forward": (Lora(), {**SMALL, "feed_forward": True}),
    "lora on everything": (
        Lora(),
        {
            **{**SMALL, "rank": 4, "convolutions": True, "convolution_rank": 2, "init": "kaiming"},
            **{"feed_forward": True, "projections": True, "time_embedding": True},
        },
    ),
    "kohya on everything": (
        Lora(),
        {
            **{**SMALL, "convolutions": True, "feed_forward": True, "projections": True},
            **{"time_embedding": True, "export": "kohya"},
        },
    ),
    "lora with text": (Lora(), {**SMALL, "text_encoder": True, "feed_forward": True}),
    "dora with text": (Lora(), {**SMALL, "text_encoder": True, "variant": "dora"}),
    "pivotal tuning": (PivotalTuning(), SMALL),
    "pivotal tuning with text": (PivotalTuning(), {**SMALL, "text_encoder": True}),
    "whole lokr": (Lora(), {**SMALL, "variant": "lokr", "rank": 1000, "alpha": 1000, "factor": 6}),
    "dora": (Lora(), {**SMALL, "variant": "dora"}),
    "kohya": (Lora(), {**SMALL, "export": "kohya"}),
    "loha": (Lora(), {**SMALL, "variant": "loha"}),
    "lokr": (Lora(), {**SMALL, "variant": "lokr"}),
    "one vector": (TextualInversion(), {**STEPS, "vectors": 1, "learning_rate": 1.0}),
    "four vectors": (TextualInversion(), {**STEPS, "vectors": 4, "learning_rate": 1.0}),
    "custom diffusion": (CustomDiffusion(), {**STEPS, "learning_rate": 5e-2}),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_pipeline(tmp_path_factory.mktemp("base") / "pipeline")


@pytest.fixture(scope="module")
def drawn(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """For every case: its artifact, what the harness draws and what plain diffusers draws."""
    folder = tmp_path_factory.mktemp("cases")
    model = load_model(str(base), torch.device("cpu"))
    save_file({"latents": initial_latents(model, [0, 1])}, folder / "latents.safetensors")
    found, jobs = {}, []
    for name, (attack, settings) in CASES.items():
        cell = folder / name.replace(" ", "-")
        artifact, word = _attack(attack, settings, model, cell)
        prompt = f"a photo of {word} person"
        found[name] = {
            "artifact": artifact,
            "harness": _draw(load_attacked(model, artifact), prompt),
            "untouched": _draw(model, "a photo of sks person"),
            "out": cell / "plain.npy",
        }
        jobs.append(
            {
                "kind": artifact.kind,
                "path": str(artifact.path),
                "base": str(base),
                "prompt": prompt,
                "out": str(cell / "plain.npy"),
            }
        )
    (folder / "jobs.json").write_text(json.dumps(jobs))
    script = Path(__file__).with_name("plain_diffusers.py")
    arguments = [str(folder / "jobs.json"), str(folder / "latents.safetensors")]
    result = subprocess.run(
        [sys.executable, "-P", str(script), *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={"PATH": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return found


@pytest.mark.parametrize("name", CASES)
def test_plain_diffusers_draws_the_same_pixels(name: str, drawn: dict[str, dict[str, Any]]) -> None:
    case = drawn[name]
    plain = torch.from_numpy(np.load(case["out"]))
    assert torch.equal(plain, case["harness"])
    assert not torch.equal(plain, case["untouched"]), "the artifact changes nothing"


def test_kohya_carries_alpha(drawn: dict[str, dict[str, Any]]) -> None:
    folder = drawn["kohya"]["artifact"].path
    state = load_file(folder / "pytorch_lora_weights.safetensors")
    alphas = [value.item() for key, value in state.items() if key.endswith(".alpha")]
    assert alphas and set(alphas) == {8.0}
    assert all(key.startswith("lora_unet_") for key in state)


def test_custom_diffusion_writes_every_layer(base: Path, drawn: dict[str, dict[str, Any]]) -> None:
    unet: Any = load_model(str(base), torch.device("cpu")).trained
    folder = drawn["custom diffusion"]["artifact"].path
    state = load_file(folder / "pytorch_custom_diffusion_weights.safetensors")
    for name in unet.attn_processors:
        keys = [key for key in state if key.startswith(name)]
        assert len(keys) == (2 if "attn2" in name else 1)


def test_four_vectors_are_four_rows(drawn: dict[str, dict[str, Any]]) -> None:
    folder = drawn["four vectors"]["artifact"].path
    state = load_file(folder / "learned_embeds.safetensors")
    assert [tuple(value.shape) for value in state.values()] == [(4, 32)]


def _attack(
    attack: Attack, settings: dict[str, Any], model: DiffusionModel, folder: Path
) -> tuple[Artifact, str]:
    folder.mkdir()
    subject = Subject("s", "person", "sks", synthetic_photos(model.resolution))
    bench = Workbench(model, subject, 0, folder, folder / "cache")
    artifact = run_attack(attack, bench, resolve(attack.Config, settings))
    return artifact, bench.prompt_word


def _draw(model: DiffusionModel, prompt: str) -> Tensor:
    settings = SamplerSettings(sampler="ddim", steps=4, guidance=3.0)
    return torch.cat(list(sample(model, [prompt] * 2, [0, 1], settings)))
