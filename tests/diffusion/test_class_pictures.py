"""The cache of what a model draws by itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import apdm_cli.diffusion.class_pictures as room
from apdm_cli.diffusion.class_pictures import class_pictures, generated_latents
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.sampling import SamplerSettings
from apdm_cli.errors import ApdmError
from apdm_cli.extension.family import load_model
from tests.tiny import make_tiny_pipeline

SAMPLER = SamplerSettings(sampler="ddim", steps=2, guidance=2.0, batch_size=2)
PROMPT = "a photo of dog"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DiffusionModel:
    folder = make_tiny_pipeline(tmp_path_factory.mktemp("tiny"), channels=(16, 32), text_layers=1)
    return load_model(str(folder), torch.device("cpu"))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The seeds of everything that is really drawn."""
    seeds: list[Any] = []
    for name in ("sample", "sample_latents"):
        original = getattr(room, name)

        def counting(model: Any, prompts: Any, wanted: Any, *rest: Any, original: Any = original):
            seeds.extend(wanted)
            return original(model, prompts, wanted, *rest)

        monkeypatch.setattr(room, name, counting)
    return seeds


def test_a_larger_request_only_adds(
    model: DiffusionModel, tmp_path: Path, drawn: list[Any]
) -> None:
    told: list[int] = []
    three = class_pictures(model, PROMPT, 3, SAMPLER, tmp_path, seed=2)
    five = class_pictures(model, PROMPT, 5, SAMPLER, tmp_path, seed=2, drawn=told.append)
    again = class_pictures(model, PROMPT, 5, SAMPLER, tmp_path, seed=2)
    assert three.shape == (3, 32, 32, 3) and three.dtype == torch.uint8
    assert torch.equal(five[:3], three) and torch.equal(again, five)
    assert drawn == [2_000_000 + i for i in range(5)]
    assert told == [3, 2]
    assert len({picture.numpy().tobytes() for picture in five}) == 5


def test_key_is_model_prompt_seed_and_sampler(
    model: DiffusionModel, tmp_path: Path, drawn: list[Any]
) -> None:
    def ask(**changes: Any) -> int:
        arguments = {"model": model, "prompt": PROMPT, "seed": 0, "sampler": SAMPLER, **changes}
        before = len(drawn)
        class_pictures(
            arguments["model"],
            arguments["prompt"],
            1,
            arguments["sampler"],
            tmp_path,
            arguments["seed"],
        )
        return len(drawn) - before

    assert ask() == 1
    assert ask() == 0
    assert ask(prompt="a photo of cat") == 1
    assert ask(seed=1) == 1
    assert ask(sampler=SAMPLER.model_copy(update={"guidance": 3.0})) == 1
    assert ask(model=replace(model, ref=replace(model.ref, digest="0" * 64))) == 1
    # A picture depends on its own seed only, so the batch it was drawn in does not matter.
    assert ask(sampler=SAMPLER.model_copy(update={"batch_size": 1})) == 0


@pytest.mark.parametrize("damage", [b"", b"\x89PNG\r\n\x1a\n cut off"])
def test_a_damaged_picture_is_drawn_again(
    model: DiffusionModel, tmp_path: Path, drawn: list[Any], damage: bytes
) -> None:
    first = class_pictures(model, PROMPT, 2, SAMPLER, tmp_path)
    next(tmp_path.rglob("00001.png")).write_bytes(damage)
    assert torch.equal(class_pictures(model, PROMPT, 2, SAMPLER, tmp_path), first)
    assert drawn == [0, 1, 1]
    assert not list(tmp_path.rglob(".tmp-*"))


def test_latents_are_kept_and_not_decoded(
    model: DiffusionModel, tmp_path: Path, drawn: list[Any]
) -> None:
    prompts = ["a photo of dog", "a photo of cat", "a photo of dog"]
    told: list[int] = []
    first = generated_latents(model, prompts, SAMPLER, tmp_path, seed=1, drawn=told.append)
    assert first.shape == (3, 4, 8, 8) and first.dtype == torch.float32
    assert drawn == [1_000_000, 1_000_001, 1_000_002] and told == [2, 1]
    assert torch.equal(generated_latents(model, prompts, SAMPLER, tmp_path, seed=1), first)
    assert len(drawn) == 3
    next(tmp_path.rglob("*.safetensors")).write_bytes(b"cut off")
    assert torch.equal(generated_latents(model, prompts, SAMPLER, tmp_path, seed=1), first)
    assert not list(tmp_path.rglob("*.png"))


def test_a_folder_that_cannot_be_made_is_named(model: DiffusionModel, tmp_path: Path) -> None:
    (tmp_path / "class-pictures").write_text("in the way")
    with pytest.raises(ApdmError, match="class-pictures"):
        class_pictures(model, PROMPT, 1, SAMPLER, tmp_path)
