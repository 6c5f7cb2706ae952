"""What has to hold on a CUDA card; skipped where there is none.

`APDM_GPU_TESTS=cpu` runs the same on the CPU, to try the tests themselves.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from apdm_cli.diffusion.denoiser import NoisyDraw
from apdm_cli.diffusion.recording import LAUNCHED, SWITCH
from apdm_cli.diffusion.sampling import SamplerSettings, sample
from apdm_cli.extension.family import load_model
from apdm_cli.runs.jsonl import read_rows
from pocket_training import loop
from pocket_training.parallel import Team
from pocket_training.streams import initial_weights
from tests.personalization.test_streamed_adamw import trains_like_the_ordinary_one
from tests.protection.commands import Desk, forget_pipelines, same, stopped
from tests.tiny import make_photos, make_tiny_pipeline

DEVICE = torch.device(os.environ.get("APDM_GPU_TESTS", "cuda"))
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        DEVICE.type == "cuda" and not torch.cuda.is_available(), reason="there is no CUDA card"
    ),
]
PROMPTS = ["a photo of sks person", "a photo of dog", "", "a photo of person with red hair"]


@pytest.fixture(scope="module", autouse=True)
def _pipelines() -> Iterator[None]:
    yield
    forget_pipelines()


@pytest.fixture(autouse=True)
def _full_float32() -> Iterator[None]:
    """cuDNN convolves in TF32 unless told not to: three digits."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def error_and_gradient(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Denoising errors (B,) of the pocket model and its flat gradient, brought to the CPU."""
    model = load_model("pocket", device, dtype)
    generator = torch.Generator().manual_seed(3)
    latents, noise = torch.randn(2, len(PROMPTS), *model.latent_shape, generator=generator)
    timesteps = torch.tensor([20, 300, 600, 950])
    draw = NoisyDraw(latents.to(device), noise.to(device), timesteps.to(device))
    (error,) = model.denoiser.squared_errors([draw], [model.encode_text(PROMPTS)])
    model.trained.requires_grad_(True)
    error.mean().backward()
    found = [p.grad.flatten() for p in model.trained.parameters() if p.grad is not None]
    return error.detach().mean((1, 2, 3)).cpu(), torch.cat(found).cpu()


def cosine(first: Tensor, second: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(first.flatten(), second.flatten(), dim=0))


def test_float32_equals_the_cpu() -> None:
    (error, gradient), (other, other_gradient) = (
        error_and_gradient(device, torch.float32) for device in (torch.device("cpu"), DEVICE)
    )
    assert torch.allclose(other, error, rtol=1e-5)
    assert float((other_gradient - gradient).norm() / gradient.norm()) < 1e-4


def test_bfloat16_points_the_same_way() -> None:
    (error, gradient), (other, other_gradient) = (
        error_and_gradient(DEVICE, dtype) for dtype in (torch.float32, torch.bfloat16)
    )
    assert torch.allclose(other, error, rtol=0.02)
    assert cosine(gradient, other_gradient) > 0.999


def test_pictures_are_those_of_the_cpu() -> None:
    settings = SamplerSettings(sampler="ddim", steps=4, guidance=3.0, batch_size=4)
    here, there = (
        torch.cat(list(sample(load_model("pocket", device), PROMPTS, range(4), settings)))
        for device in (torch.device("cpu"), DEVICE)
    )
    assert float((here.float() - there.float()).abs().mean()) < 0.5  # of 255


@pytest.mark.usefixtures("heeded_signals")
def test_a_stopped_run_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    exact = ("--device", str(DEVICE), "--dtype", "fp32", "--set", "deterministic=true")
    assert desk.protect("whole", *exact) == 0
    with stopped():
        assert desk.protect("stopped", *exact) == 143
    assert desk.protect("stopped", "--resume", *exact) == 0
    assert same(desk.weights("whole"), desk.weights("stopped"))
    rows = [read_rows(desk.runs / name / "metrics.jsonl") for name in ("whole", "stopped")]
    assert rows[0] == rows[1]


PERSISTENT = (
    *("attackers.kind=persistent", "attackers.count=2", "attackers.ages=[1, 2]", "steps_inner=1"),
    *("margin.at_start=0.5", "margin.at_start_pairs=1", "preservation.evaluated_at=start"),
)


@pytest.mark.parametrize("settings", [(), PERSISTENT, ("train=adapter", "adapter.rank=2")])
@pytest.mark.parametrize(("dtype", "apart"), [("fp32", 1e-3), ("bf16", 1e-2)])
def test_low_memory_gives_nearly_the_same(
    tmp_path: Path, settings: tuple[str, ...], dtype: str, apart: float
) -> None:
    desk = Desk(tmp_path)
    chosen = [part for setting in settings for part in ("--set", setting)]
    how = ("--device", str(DEVICE), "--dtype", dtype, "--save", "trained-only", *chosen)
    assert desk.protect("normal", *how) == 0
    assert desk.protect("low", "--memory", "low", *how) == 0
    normal, low = desk.weights("normal"), desk.weights("low")
    moved = sum((low[name] - normal[name]).square().sum().item() for name in low) ** 0.5
    size = sum(normal[name].square().sum().item() for name in low) ** 0.5
    assert moved < apart * size


def test_streamed_moments_train_like_moments_on_the_card() -> None:
    trains_like_the_ordinary_one(DEVICE)


@pytest.mark.skipif(DEVICE.type != "cuda", reason="only a CUDA card counts its memory")
@pytest.mark.parametrize("memory", ["normal", "low"])
def test_memory_is_what_was_foreseen(memory: str, tmp_path: Path) -> None:
    """Of a network that is large beside its activations, in bf16: within a tenth."""
    found = peaks(tmp_path, "--memory", memory)
    assert found["peak_memory_bytes"] == pytest.approx(found["card_bytes"][""], rel=0.1)
    assert found["peak_reserved_bytes"] >= found["peak_memory_bytes"]


@pytest.mark.skipif(DEVICE.type != "cuda", reason="only a CUDA card counts its memory")
def test_low_memory_needs_less_than_normal_without_the_moments(tmp_path: Path) -> None:
    normal, low = peaks(tmp_path / "normal"), peaks(tmp_path / "low", "--memory", "low")
    moments = 4 * normal["estimated_memory_bytes"] / 9
    assert normal["peak_memory_bytes"] - low["peak_memory_bytes"] > moments


def peaks(folder: Path, *more: str) -> dict[str, Any]:
    """What `--dry-run` foresees and measures with a U-Net of 238 million weights."""
    model = make_tiny_pipeline(folder / "model", channels=(320, 1280), text_layers=1)
    command = ("protect", make_photos(folder / "photos", count=3), "--class", "dog")
    settings = ("--set", "steps_inner=2", "--set", "sampler_steps=2", "--preset", "paper")
    return measured(*command, "--model", model, *settings, "--dtype", "bf16", *more)


def measured(*arguments: object) -> dict[str, Any]:
    """`apdm ARGUMENTS --dry-run`, in a process whose memory nobody else has used."""
    apdm = (sys.executable, "-c", "from apdm_cli.cli.main import main; main()")
    options = ("--device", str(DEVICE), "--dry-run", "--json")
    command = [*apdm, *map(str, arguments), *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


# Enough steps of every kind that most are played.
RECORDED = ("--set", "steps_outer=6", "--set", "steps_inner=3")


@pytest.mark.skipif(DEVICE.type != "cuda", reason="only a CUDA card records passes")
def test_recorded_passes_point_the_same_way() -> None:
    """The error and the gradient of one batch, launched in float32 and played in bfloat16."""
    error, gradient = error_and_gradient(DEVICE, torch.float32)
    model = load_model("pocket", DEVICE, torch.bfloat16)
    generator = torch.Generator().manual_seed(3)
    latents, noise = torch.randn(2, len(PROMPTS), *model.latent_shape, generator=generator)
    draw = NoisyDraw(
        *(part.to(DEVICE) for part in (latents, noise, torch.tensor([20, 300, 600, 950])))
    )
    condition = model.encode_text(PROMPTS)
    model.trained.requires_grad_(True)
    for _ in range(LAUNCHED + 2):
        model.trained.zero_grad()
        (found,) = model.denoiser.squared_errors([draw], [condition])
        found.mean().backward()
    grads = [p.grad.flatten().cpu() for p in model.trained.parameters() if p.grad is not None]
    assert torch.allclose(found.detach().mean((1, 2, 3)).cpu(), error, rtol=0.02)
    assert cosine(gradient, torch.cat(grads)) > 0.999


@pytest.mark.skipif(DEVICE.type != "cuda", reason="only a CUDA card records passes")
@pytest.mark.parametrize("kind", ["restart", "persistent"])
def test_a_recorded_protection_ends_like_a_launched_one(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recwarn: pytest.WarningsRecorder,
    kind: str,
) -> None:
    desk = Desk(tmp_path)
    common = (
        *("--device", str(DEVICE), "--dtype", "bf16", "--set", f"attackers.kind={kind}"),
        *RECORDED,
    )
    assert desk.protect("recorded", *common) == 0
    assert not [one for one in recwarn if "not recorded" in str(one.message)]
    monkeypatch.setenv(SWITCH, "0")
    assert desk.protect("launched", *common) == 0
    # Adam's first steps have the sign of a gradient alone: rounding turns some of them.
    assert cosine(desk.moved("recorded"), desk.moved("launched")) > 0.7


@pytest.mark.skipif(DEVICE.type != "cuda", reason="only a CUDA card records passes")
@pytest.mark.usefixtures("heeded_signals")
def test_a_recorded_run_goes_on_after_a_stop(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    common = ("--device", str(DEVICE), "--dtype", "bf16", *RECORDED)
    assert desk.protect("whole", *common) == 0
    with stopped():
        assert desk.protect("stopped", *common) == 143
    assert desk.protect("stopped", "--resume", *common) == 0
    assert cosine(desk.moved("stopped"), desk.moved("whole")) > 0.7
    manifest = json.loads((desk.runs / "stopped" / "manifest.json").read_text("utf-8"))
    assert manifest["peak_reserved_bytes"] >= manifest["peak_memory_bytes"] > 0


@pytest.mark.skipif(DEVICE.type != "cuda", reason="only a CUDA card draws with rounded weights")
def test_rounded_weights_draw_the_same_pictures() -> None:
    """Shades of 256, beside what another seed changes."""
    drawn = {}
    settings = SamplerSettings(sampler="ddim", steps=20, guidance=3.0)
    for dtype in (torch.float32, torch.bfloat16):
        model = load_model("pocket", DEVICE, dtype)
        drawn[dtype] = next(sample(model, ["a photo of a dog"] * 4, range(4), settings)).float()
    apart = (drawn[torch.float32] - drawn[torch.bfloat16]).abs().mean()
    other = (drawn[torch.float32] - drawn[torch.float32].flip(0)).abs().mean()
    assert apart < 2 and apart < 0.1 * other


@pytest.mark.skipif(DEVICE.type != "cuda", reason="only a CUDA card records steps")
def test_recorded_steps_train_like_launched_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pocket_training.loop` plays its steps back as a CUDA graph."""
    said: list[str] = []

    def weights(name: str, eager: int) -> Tensor:
        monkeypatch.setattr(loop, "EAGER_STEPS", eager)
        with initial_weights(0, "test"):
            layer = torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.Linear(16, 1)).to(DEVICE)
        lesson = loop.Lesson(
            lambda generator: (torch.randn(64, 3, generator=generator, device=DEVICE),),
            lambda inputs: (layer(inputs.bfloat16()).float() - 1).square().mean(),
        )
        recipe = loop.Recipe("test", 0, 40, 1e-2, warm_up=2, checkpoint_every=20)
        team = Team(0, 1, torch.empty(0), torch.zeros(1, dtype=torch.int64), None)
        loop.train(recipe, team, layer, lesson, tmp_path / name, said.append)
        return torch.cat([p.detach().flatten() for p in layer.parameters()]).float()

    recorded, launched = weights("recorded", 5), weights("launched", 1000)
    assert not any("not recorded" in line for line in said)
    assert torch.allclose(recorded, launched, atol=1e-2)
