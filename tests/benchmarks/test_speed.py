"""The speed benchmark counts what it compares."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from apdm_cli.extension.family import load_model
from benchmarks import speed
from benchmarks.plain_loop import PlainLoop
from tests.tiny import make_tiny_pipeline


@pytest.fixture(scope="module")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_pipeline(tmp_path_factory.mktemp("speed") / "model")


@pytest.fixture
def loop(tiny_pipeline: Path) -> PlainLoop:
    model = load_model(str(tiny_pipeline), torch.device("cpu"), torch.float32)
    side = model.resolution
    photos, pictures = torch.rand(2, 3, 3, side, side, generator=torch.Generator()).mul(2).sub(1)
    prompts = ("a photo of sks dog", "a photo of dog")
    return PlainLoop(model.components, photos, pictures, prompts, learning_rate=0.0)


def test_the_plain_loop_repeats_what_the_published_code_repeats(loop: PlainLoop) -> None:
    calls = {"text_encoder": 0, "vae": 0}

    def count(name: str) -> None:
        calls[name] += 1

    loop.parts["text_encoder"].register_forward_hook(lambda *_: count("text_encoder"))
    loop.parts["vae"].encoder.register_forward_hook(lambda *_: count("vae"))
    assert list(loop.steps(1, 2)) == [1, 2]
    assert calls == {"text_encoder": 2 * 4, "vae": 2 * 6}


def test_the_plain_loop_is_the_method(loop: PlainLoop) -> None:
    # At a rate of 0 θ stays φ: both margins are 0, whatever β is.
    next(loop.steps(1, 1))
    assert loop.last_dpo == pytest.approx(math.log(2))


def test_the_plain_loop_moves_theta_once_an_outer_step(loop: PlainLoop) -> None:
    (group,) = loop.outer.param_groups
    group["lr"] = 1e-3
    before = [weight.detach().clone() for weight in loop.theta.parameters()]
    steps = loop.steps(2, 2)
    next(steps), next(steps)
    unmoved = [torch.equal(a, b) for a, b in zip(before, loop.theta.parameters(), strict=True)]
    assert all(unmoved)
    next(steps)
    moved = [torch.equal(a, b) for a, b in zip(before, loop.theta.parameters(), strict=True)]
    assert not all(moved)


def test_our_inner_step_does_nothing_twice(
    tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "speed.json"
    arguments = ["--model", str(tiny_pipeline), "--what", "protect", "--against", "plain"]
    speed.main([*arguments, "--inner", "2", "--repeat", "1", "--json", str(file)])
    found: dict[str, Any] = json.loads(file.read_text())
    assert json.loads(capsys.readouterr().out) == found
    units = {name: found["protect"][name]["units_per_inner_step"] for name in ("fast", "plain")}
    assert units["fast"] <= 1.1 * speed.FLOOR
    assert units["plain"] > units["fast"] + 0.9
    times = {name: found["protect"][name]["seconds_per_outer_step"] for name in ("fast", "plain")}
    assert found["protect"]["ratio"] == pytest.approx(times["plain"] / times["fast"])
