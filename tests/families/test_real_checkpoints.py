"""Folders as people have them: another schedule, mixed precision, new words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from apdm_cli.diffusion.denoiser import NoisyDraw
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.process import Diffusion
from apdm_cli.diffusion.sampling import SamplerSettings, initial_latents, sample
from apdm_cli.diffusion.saving import save_pipeline
from apdm_cli.diffusion.words import check_vocabulary
from apdm_cli.errors import ApdmError
from apdm_cli.extension.family import load_model
from tests.diffusion.changes import set_entry
from tests.protection.commands import Desk, forget_pipelines, pipeline

SCHEDULER = "scheduler/scheduler_config.json"
TEXT = "text_encoder/model.safetensors"
PROMPT = "a photo of sks dog"


@pytest.fixture(scope="module", autouse=True)
def _pipelines() -> Iterator[None]:
    yield
    forget_pipelines()


def load(folder: Path) -> DiffusionModel:
    return load_model(str(folder), torch.device("cpu"))


@pytest.fixture
def zero_snr(tmp_path: Path) -> Path:
    """Velocity prediction where the last timestep has no signal left."""
    folder = pipeline(tmp_path / "model", "v_prediction")
    set_entry(SCHEDULER, "rescale_betas_zero_snr", True)(folder)
    set_entry(SCHEDULER, "timestep_spacing", "trailing")(folder)
    return folder


def test_a_zero_terminal_snr_is_trained_with(zero_snr: Path) -> None:
    model = load(zero_snr)
    assert isinstance(model.process, Diffusion)
    assert model.process.alphas_cumprod[-1] == 0 < model.process.alphas_cumprod[-2]
    latents, noise = initial_latents(model, [0]), initial_latents(model, [1])
    draw = NoisyDraw(latents, noise, torch.tensor([999]))
    assert torch.equal(model.process.noised(*draw), noise), "only noise is left"
    assert torch.allclose(model.process.target(*draw), -latents)
    (error,) = model.denoiser.squared_errors([draw], [model.encode_text([PROMPT])])
    weight = model.process.min_snr_weight(draw.timesteps, 5.0)
    assert error.isfinite().all() and weight.isfinite().all()


def test_a_zero_terminal_snr_is_drawn_with_or_the_sampler_refused(zero_snr: Path) -> None:
    model = load(zero_snr)
    for sampler in ("ddim", "dpmsolver++"):
        list(sample(model, [PROMPT], [0], SamplerSettings(sampler=sampler, steps=3), strict=True))
    with pytest.raises(ApdmError, match="which the sampler pndm does not have") as caught:
        list(sample(model, [PROMPT], [0], SamplerSettings(sampler="pndm", steps=3)))
    assert caught.value.hint == "Use --sampler ddim."


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_text_encoder_in_another_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    """It is computed with in float32, and kept as it was."""
    folder = pipeline(tmp_path / "model")
    halves = {name: tensor.to(dtype) for name, tensor in load_file(folder / TEXT).items()}
    save_file(halves, folder / TEXT, metadata={"format": "pt"})
    model = load(folder)
    encoder = model.component("text_encoder")
    assert {weight.dtype for weight in encoder.parameters()} == {torch.float32}
    state = encoder.state_dict()
    for name, tensor in halves.items():
        assert torch.equal(state.get(name, state.get(f"text_model.{name}")), tensor.float()), name
    save_pipeline(model, tmp_path / "saved")
    assert (tmp_path / "saved" / TEXT).read_bytes() == (folder / TEXT).read_bytes()
    again = StableDiffusionPipeline.from_pretrained(tmp_path / "saved")
    with torch.no_grad():
        text, _ = again.encode_prompt(
            PROMPT, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
        )
    assert torch.allclose(text.float(), model.encode_text([PROMPT])["text"], atol=1e-5)


def test_a_tokenizer_with_a_word_that_somebody_added(tmp_path: Path) -> None:
    """As textual inversion leaves it: with an embedding it is a word, without one refused."""
    folder = pipeline(tmp_path / "model")
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    pipe.tokenizer.add_tokens(["<rex>"])
    pipe.tokenizer.save_pretrained(folder / "tokenizer")
    with pytest.raises(ApdmError, match=r"tokens, and its text encoder .* embeddings"):
        load(folder)
    pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer))
    pipe.text_encoder.save_pretrained(folder / "text_encoder")
    model = load(folder)
    assert check_vocabulary(model, "dog", "<rex>") == ()
    with_word, without = model.encode_text(["a photo of <rex> dog", "a photo of dog"]).split(1)
    assert not torch.allclose(with_word["text"], without["text"])


def test_an_identifier_that_pushes_the_class_off_the_end_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = Desk(tmp_path)
    assert desk.protect("long", "--identifier", "sks " * 20) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "--identifier and --class are too long" in said and "'dog' would fall off" in said
    assert not (desk.runs / "long").exists()
