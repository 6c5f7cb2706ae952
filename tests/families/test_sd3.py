"""Stable Diffusion 3 on random weights of the real classes: the commands, and plain diffusers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.errors import ApdmError
from apdm_cli.extension.family import load_model
from apdm_cli.testing import FamilyContract
from apdm_families.stable_diffusion_3 import LONGEST_SEQUENCE, StableDiffusion3
from tests.families.tiny_flow import SEQUENCE, make_tiny_sd3
from tests.tiny import MAX_LENGTH

CPU = torch.device("cpu")
PROMPT = "a photo of sks person"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_sd3(tmp_path_factory.mktemp("sd3") / "model")


@pytest.fixture(scope="module")
def model(folder: Path) -> DiffusionModel:
    return load_model(str(folder), CPU)


class TestStableDiffusion35(FamilyContract):
    """With the second attention and normalized queries of 3.5."""

    family = StableDiffusion3()

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return make_tiny_sd3(tmp_path_factory.mktemp("contract") / "model", second=True)


# Against diffusers


@torch.no_grad()
def test_the_denoiser_asks_as_the_pipeline_does(model: DiffusionModel) -> None:
    noisy = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(1))
    timesteps, pipe = torch.tensor([120.0, 900.0]), model.pipeline
    sequence, _, pooled, _ = pipe.encode_prompt(
        [PROMPT] * 2, None, None, max_sequence_length=SEQUENCE
    )
    expected = pipe.transformer(
        hidden_states=noisy,
        timestep=timesteps,
        encoder_hidden_states=sequence,
        pooled_projections=pooled,
        return_dict=False,
    )[0]
    found = model.denoiser.predict(noisy, timesteps, model.encode_text([PROMPT] * 2))
    assert torch.equal(found, expected)


def test_training_timesteps_are_shifted_as_the_scheduler_shifts_them(model: DiffusionModel) -> None:
    drawn = model.process.draw_timesteps(4000, (0.0, 1.0), torch.Generator().manual_seed(0))
    assert abs(drawn.median().item() - 750) < 15  # σ = ½ becomes 3·½ / (1 + 2·½) = ¾


def test_without_t5_its_place_is_empty(model: DiffusionModel, tmp_path: Path) -> None:
    small = load_model(str(make_tiny_sd3(tmp_path / "model", t5=False)), CPU)
    sequence = small.encode_text([PROMPT])["sequence"]
    assert sequence.shape[1] == MAX_LENGTH + LONGEST_SEQUENCE
    assert not sequence[:, MAX_LENGTH:].any() and sequence[:, :MAX_LENGTH].any()
    assert model.encode_text([PROMPT])["sequence"][:, MAX_LENGTH:].any()


def test_a_folder_whose_t5_was_never_downloaded_is_opened_and_saved(
    folder: Path, tmp_path: Path
) -> None:
    from diffusers import StableDiffusion3Pipeline

    from apdm_cli.diffusion.saving import save_pipeline

    partial = tmp_path / "partial"
    shutil.copytree(folder, partial)
    for name in ("text_encoder_3", "tokenizer_3"):
        shutil.rmtree(partial / name)
    model = load_model(str(partial), CPU)
    assert model.components["text_encoder_3"] is None
    save_pipeline(model, tmp_path / "saved")
    absent = {"text_encoder_3": None, "tokenizer_3": None}
    plain = StableDiffusion3Pipeline.from_pretrained(tmp_path / "saved", **absent)
    pairs = zip(plain.transformer.parameters(), model.trained.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert load_model(str(tmp_path / "saved"), CPU).components["text_encoder_3"] is None


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: shutil.rmtree(folder / name)


def edit(file: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new))

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (remove("text_encoder_2"), "lacks its part text_encoder_2"),
        (remove("text_encoder_3"), "one of text_encoder_3 and tokenizer_3"),
        (
            edit("model_index.json", '"StableDiffusion3Pipeline"', '"StableDiffusion3Img2Img"'),
            r"Stable Diffusion 3 \(StableDiffusion3Img2Img\): not supported yet",
        ),
        (edit("scheduler/scheduler_config.json", '"shift": 3.0', '"shift": -1.0'), "the shift -1"),
    ],
)
def test_broken_folders_are_refused_in_a_sentence(
    change: Callable[[Path], None], words: str, folder: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    change(broken)
    with pytest.raises(ApdmError, match=words) as caught:
        load_model(str(broken), CPU)
    assert caught.value.hint and str(broken) in caught.value.what


# Single files


def original_layout(folder: Path) -> dict[str, Any]:
    """The tensors of the transformer in `folder` as Stability AI names them in a checkpoint."""
    state, found = load_file(folder / "transformer/diffusion_pytorch_model.safetensors"), {}

    def take(new: str, *old: str) -> None:
        for kind in ("weight", "bias"):
            if f"{old[0]}.{kind}" in state:
                found[f"{new}.{kind}"] = torch.cat([state[f"{name}.{kind}"] for name in old])

    def swapped(new: str, old: str) -> None:
        for kind in ("weight", "bias"):
            scale, shift = state[f"{old}.{kind}"].chunk(2)
            found[f"{new}.{kind}"] = torch.cat([shift, scale])

    found["pos_embed"] = state["pos_embed.pos_embed"]
    take("x_embedder.proj", "pos_embed.proj")
    take("context_embedder", "context_embedder")
    for new, old in (("t_embedder", "timestep_embedder"), ("y_embedder", "text_embedder")):
        for place, layer in (("0", "linear_1"), ("2", "linear_2")):
            take(f"{new}.mlp.{place}", f"time_text_embed.{old}.{layer}")
    for number in range(2):
        old, new = f"transformer_blocks.{number}", f"joint_blocks.{number}"
        take(f"{new}.x_block.attn.qkv", *(f"{old}.attn.to_{name}" for name in "qkv"))
        take(f"{new}.context_block.attn.qkv", *(f"{old}.attn.add_{name}_proj" for name in "qkv"))
        take(f"{new}.x_block.attn.proj", f"{old}.attn.to_out.0")
        take(f"{new}.context_block.attn.proj", f"{old}.attn.to_add_out")
        take(f"{new}.x_block.adaLN_modulation.1", f"{old}.norm1.linear")
        if number == 1:
            swapped(f"{new}.context_block.adaLN_modulation.1", f"{old}.norm1_context.linear")
        else:
            take(f"{new}.context_block.adaLN_modulation.1", f"{old}.norm1_context.linear")
        for block, ff in (("x_block", "ff"), ("context_block", "ff_context")):
            take(f"{new}.{block}.mlp.fc1", f"{old}.{ff}.net.0.proj")
            take(f"{new}.{block}.mlp.fc2", f"{old}.{ff}.net.2")
    take("final_layer.linear", "proj_out")
    swapped("final_layer.adaLN_modulation.1", "norm_out.linear")
    return {f"model.diffusion_model.{name}": tensor for name, tensor in found.items()}


def test_a_single_file_takes_the_rest_from_the_folder_beside_it(
    model: DiffusionModel, folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "one.safetensors"
    save_file(original_layout(folder), file)
    with pytest.raises(ApdmError, match=r"holds the transformer of Stable Diffusion 3.* not all"):
        load_model(str(file), CPU)
    shutil.copytree(folder, file.with_suffix(""))
    (file.with_suffix("") / "transformer/diffusion_pytorch_model.safetensors").unlink()
    state, expected = load_model(str(file), CPU).trained.state_dict(), model.trained.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in state)
