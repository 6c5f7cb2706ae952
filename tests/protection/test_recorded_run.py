"""Whole commands with recorded passes, as on a card in half precision; here in float32."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from apdm_cli.diffusion import recording
from tests.protection.commands import Desk, forget_pipelines, run

LONGER = ("--set", "steps_inner=4", "--set", "steps_outer=3")


@pytest.fixture(scope="module", autouse=True)
def _pipelines() -> Iterator[None]:
    yield
    forget_pipelines()


def record(patch: pytest.MonkeyPatch) -> list[int]:
    """Record from now on; the list grows by one with every recording."""
    made: list[int] = []

    class Noted(recording._Recording):
        def __init__(self, *given: Any) -> None:
            made.append(1)
            super().__init__(*given)

    patch.setattr(recording, "_Recording", Noted)
    patch.setattr(
        "apdm_cli.extension.family.recorder",
        lambda family, device, dtype: recording.Recorder(family.predict, dtype),
    )
    return made


def moved_alike(
    first: dict[str, torch.Tensor],
    second: dict[str, torch.Tensor],
    start: dict[str, torch.Tensor],
) -> float:
    """Cosine between the ways two runs went. (Adam's first steps know a gradient's sign alone.)"""
    assert first.keys() == second.keys()
    one, other = (
        torch.cat([(end[k] - start.get(k, torch.zeros(1))).flatten() for k in end])
        for end in (first, second)
    )
    return float(torch.nn.functional.cosine_similarity(one, other, dim=0))


@pytest.mark.parametrize("more", [(), ("--memory", "low"), ("--set", "train=adapter")])
def test_a_recorded_protection_writes_what_a_launched_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    desk = Desk(tmp_path)
    assert desk.protect("launched", *LONGER, *more) == 0
    made = record(monkeypatch)
    assert desk.protect("recorded", *LONGER, *more) == 0
    # Low memory has no room for a recording's activations, and φ is a difference switched off.
    assert bool(made) == (not more)
    start = load_file(desk.model / "unet" / "diffusion_pytorch_model.safetensors")
    assert moved_alike(desk.weights("launched"), desk.weights("recorded"), start) > 0.99


def test_a_recorded_attack_writes_what_a_launched_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(tmp_path)
    assert desk.protect("base", "--set", "steps_outer=1") == 0
    plugins = [part for name in ("dreambooth", "lora") for part in ("--plugin", name)]
    settings = [
        part
        for one in ("steps=5", "prior_pictures=2", "sampler_steps=2", "batch_size=1")
        for part in ("--set", one)
    ]
    attack = ["attack", "base", *plugins, *settings, "--no-control", "--device", "cpu",
              "--out", str(desk.runs)]  # fmt: skip
    assert run(attack) == 0
    launched = weights(desk.runs)
    made = record(monkeypatch)
    assert run([*attack, "--rerun"]) == 0
    assert made
    assert moved_alike(launched, weights(desk.runs), {}) > 0.99


def weights(runs: Path) -> dict[str, torch.Tensor]:
    """All tensors of the artifacts, by file and name."""
    files = (runs / "base" / "attacks").glob("*/artifact/**/*.safetensors")
    return {
        f"{file.relative_to(runs)}/{name}": tensor
        for file in files
        for name, tensor in load_file(file).items()
    }
