"""What was not trained is saved as it was, and latents are never clipped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
)
from safetensors.torch import load_file, save_file

from apdm_cli.diffusion.picture_cache import class_pictures
from apdm_cli.diffusion.sampling import SamplerSettings
from apdm_cli.diffusion.saving import save_pipeline
from apdm_cli.extension.family import load_model
from tests.diffusion.original_layout import original_layout
from tests.tiny import make_tiny_pipeline

CPU = torch.device("cpu")
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
# As the folders of published models have them: what a class does not know is not in its file.
SCHEDULERS = {
    "pndm": PNDMScheduler(**BETAS, skip_prk_steps=True, steps_offset=1),
    "euler": EulerDiscreteScheduler(**BETAS, steps_offset=1, timestep_spacing="leading"),
    "dpm++": DPMSolverMultistepScheduler(**BETAS, steps_offset=1, use_karras_sigmas=True),
    "ddim": DDIMScheduler(**BETAS, clip_sample=False, steps_offset=1, timestep_spacing="trailing"),
}


def make(folder: Path, scheduler: Any) -> Path:
    """A tiny pipeline whose own scheduler is `scheduler`."""
    make_tiny_pipeline(folder, channels=(16, 32), text_layers=1)
    scheduler.save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", type(scheduler).__name__]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def add_safety_checker(folder: Path) -> None:
    """A tiny safety checker of random weights, and the feature extractor before it."""
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=8))
    checker.save_pretrained(folder / "safety_checker")
    size = {"height": 16, "width": 16}
    CLIPImageProcessor(size=size, crop_size=size).save_pretrained(folder / "feature_extractor")
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    index["requires_safety_checker"] = True
    (folder / "model_index.json").write_text(json.dumps(index))


def plain_picture(folder: Path) -> torch.Tensor:
    """What README's lines of plain diffusers draw: nothing of `apdm` is in them."""
    pipe = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(7)
    prompt = "a photo of sks person"
    found = pipe(prompt, num_inference_steps=6, generator=generator, output_type="pt").images
    return torch.as_tensor(found)


def files(folder: Path, without: str) -> dict[str, bytes]:
    """Relative name → content of every file that does not lie in `without`."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and without not in file.relative_to(folder).parts
    }


@pytest.mark.parametrize("name", SCHEDULERS)
def test_plain_diffusers_draws_the_same_with_an_unchanged_model(name: str, tmp_path: Path) -> None:
    original = make(tmp_path / "original", SCHEDULERS[name])
    model = load_model(str(original), CPU)
    class_pictures(model, "a photo of person", 1, SamplerSettings(steps=2), tmp_path)
    save_pipeline(model, tmp_path / "saved")
    assert torch.equal(plain_picture(original), plain_picture(tmp_path / "saved"))
    assert files(original, without="unet") == files(tmp_path / "saved", without="unet")


def test_only_the_trained_component_is_written_anew(tmp_path: Path) -> None:
    """Also in half precision, and with everything a published folder may have."""
    original = make(tmp_path / "original", SCHEDULERS["euler"])
    add_safety_checker(original)
    (original / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"pickled")
    (original / "vae" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"half")
    model = load_model(str(original), CPU, torch.bfloat16)
    with torch.no_grad():
        next(model.trained.parameters()).add_(1.0)
    save_pipeline(model, tmp_path / "saved")
    expected = files(original, without="unet")
    del expected["vae/diffusion_pytorch_model.bin"]
    del expected["vae/diffusion_pytorch_model.fp16.safetensors"]
    assert files(tmp_path / "saved", without="unet") == expected
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "saved", local_files_only=True)
    assert pipe.safety_checker is not None and type(pipe.scheduler) is EulerDiscreteScheduler
    assert torch.equal(
        next(pipe.unet.parameters()).detach(), next(model.trained.parameters()).detach()
    )


def test_a_safety_checker_that_was_never_downloaded_is_left_out(tmp_path: Path) -> None:
    original = make(tmp_path / "original", SCHEDULERS["pndm"])
    add_safety_checker(original)
    shutil.rmtree(original / "safety_checker")
    save_pipeline(load_model(str(original), CPU), tmp_path / "saved")
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "saved", local_files_only=True)
    assert pipe.safety_checker is None and pipe.feature_extractor is not None


def test_an_original_that_has_gone_since_is_saved_from_memory(tmp_path: Path) -> None:
    original = make(tmp_path / "original", SCHEDULERS["euler"])
    expected = plain_picture(original)
    model = load_model(str(original), CPU)
    shutil.rmtree(original)
    save_pipeline(model, tmp_path / "saved")
    assert torch.equal(plain_picture(tmp_path / "saved"), expected)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float32])
def test_what_a_single_file_has_and_was_not_trained_is_saved_as_it_has_it(
    stored: torch.dtype, tmp_path: Path
) -> None:
    original = make(tmp_path / "original", SCHEDULERS["euler"])
    tensors = original_layout(load_model(str(original), CPU).pipeline)
    rounded = {name: tensor.to(stored) for name, tensor in tensors.items()}
    save_file(rounded, tmp_path / "one.safetensors")
    ignored = shutil.ignore_patterns("*.safetensors")
    shutil.copytree(original, tmp_path / "one", ignore=ignored)
    lowered = torch.bfloat16 if stored == torch.float32 else torch.float16
    model = load_model(str(tmp_path / "one.safetensors"), CPU, lowered)
    with torch.no_grad():
        next(model.trained.parameters()).add_(1.0)
    save_pipeline(model, tmp_path / "saved")
    for part in ("vae", "text_encoder"):
        (file,) = (original / part).glob("*.safetensors")
        expected = {name: tensor.to(stored) for name, tensor in load_file(file).items()}
        found = load_file(tmp_path / "saved" / part / file.name)
        assert found.keys() == expected.keys()
        for name, tensor in found.items():
            assert tensor.dtype == stored and torch.equal(tensor, expected[name])
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "saved", local_files_only=True)
    assert torch.equal(
        next(pipe.unet.parameters()).detach(), next(model.trained.parameters()).detach()
    )


def single_file(tmp_path: Path) -> tuple[Path, Path]:
    """A single file, and the folder of its configuration beside it."""
    original = make(tmp_path / "original", SCHEDULERS["euler"])
    file = tmp_path / "one.safetensors"
    save_file(original_layout(load_model(str(original), CPU).pipeline), file)
    ignored = shutil.ignore_patterns("*.safetensors")
    return file, Path(shutil.copytree(original, tmp_path / "one", ignore=ignored))


def edited(file: Path, **entries: object) -> None:
    """Write `entries` into a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))


@pytest.mark.parametrize("gone", ["one", "one.safetensors"])
def test_what_has_gone_of_a_single_file_is_saved_from_memory(gone: str, tmp_path: Path) -> None:
    file, configuration = single_file(tmp_path)
    model = load_model(str(file), CPU)
    save_pipeline(model, tmp_path / "before")
    shutil.rmtree(configuration) if gone == "one" else file.unlink()
    save_pipeline(model, tmp_path / "saved")
    assert torch.equal(plain_picture(tmp_path / "saved"), plain_picture(tmp_path / "before"))


@pytest.mark.parametrize("place", ["one.safetensors", "original"])
def test_nothing_of_a_model_that_was_replaced_is_mixed_into_what_is_saved(
    place: str, tmp_path: Path
) -> None:
    single_file(tmp_path)
    model = load_model(str(tmp_path / place), CPU)
    save_pipeline(model, tmp_path / "before")
    weights = [tmp_path / place] if place.endswith("s") else (tmp_path / place).rglob("*.saf*")
    for file in weights:
        tensors = load_file(file)
        save_file({name: torch.zeros_like(tensor) for name, tensor in tensors.items()}, file)
    save_pipeline(model, tmp_path / "saved")
    assert torch.equal(plain_picture(tmp_path / "saved"), plain_picture(tmp_path / "before"))


@pytest.mark.parametrize(
    ("config", "entry"),
    [
        ("scheduler/scheduler_config.json", {"prediction_type": "v_prediction"}),
        ("vae/config.json", {"scaling_factor": 3.0}),
        ("text_encoder/config.json", {"hidden_act": "relu"}),
    ],
)
def test_the_configuration_that_is_saved_is_the_one_a_single_file_was_opened_with(
    config: str, entry: dict[str, object], tmp_path: Path
) -> None:
    file, configuration = single_file(tmp_path)
    model = load_model(str(file), CPU)
    save_pipeline(model, tmp_path / "before")
    edited(configuration / config, **entry)
    save_pipeline(model, tmp_path / "saved")
    assert torch.equal(plain_picture(tmp_path / "saved"), plain_picture(tmp_path / "before"))


def test_a_network_that_was_saved_alone_is_saved_whole_with_what_its_file_has(
    tmp_path: Path,
) -> None:
    file, _ = single_file(tmp_path)
    save_pipeline(load_model(str(file), CPU), tmp_path / "alone", trained_only=True)
    save_pipeline(load_model(str(tmp_path / "alone"), CPU, torch.bfloat16), tmp_path / "saved")
    save_pipeline(load_model(str(file), CPU), tmp_path / "expected")
    for part in ("vae", "text_encoder"):
        (saved,) = (tmp_path / "saved" / part).glob("*.safetensors")
        assert saved.read_bytes() == (tmp_path / "expected" / part / saved.name).read_bytes()


@pytest.mark.parametrize("name", ["euler", "dpm++", "pndm"])
def test_latents_are_not_clipped_because_a_folder_is_silent(name: str, tmp_path: Path) -> None:
    """huggingface/diffusers#1545: DDIM clips unless it is told not to."""
    silent = make(tmp_path / "silent", SCHEDULERS[name])
    spoken = Path(shutil.copytree(silent, tmp_path / "spoken"))
    file = spoken / "scheduler" / "scheduler_config.json"
    config = {**json.loads(file.read_text()), "clip_sample": False, "thresholding": False}
    file.write_text(json.dumps(config))
    settings = SamplerSettings(sampler="ddim", steps=4, guidance=3.0)
    one, other = (
        class_pictures(load_model(str(folder), CPU), "a photo of person", 2, settings, tmp_path)
        for folder in (silent, spoken)
    )
    assert torch.equal(one, other)


@pytest.mark.parametrize("entry", ["clip_sample", "thresholding"])
def test_latents_are_not_clipped_even_where_a_folder_asks_for_it(
    entry: str, tmp_path: Path
) -> None:
    """kohya-ss/sd-scripts#1432: for pixels that is right, for latents it never is."""
    folder = make(tmp_path / "model", SCHEDULERS["ddim"])
    settings = SamplerSettings(sampler="ddim", steps=4, guidance=3.0)
    expected = class_pictures(load_model(str(folder), CPU), "a dog", 1, settings, tmp_path)
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), entry: True}))
    found = class_pictures(load_model(str(folder), CPU), "a dog", 1, settings, tmp_path)
    assert torch.equal(expected, found)
