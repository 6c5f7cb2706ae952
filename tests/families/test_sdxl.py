"""Stable Diffusion XL, from a folder or a file through every command, and in plain diffusers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from peft import LoraConfig, inject_adapter_in_model
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from apdm_attacks.dreambooth import DreamBooth
from apdm_cli.diffusion.buckets import buckets_for, encode_cuts, load_cuts
from apdm_cli.diffusion.condition import Condition
from apdm_cli.diffusion.denoiser import NoisyDraw
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.process import Diffusion
from apdm_cli.diffusion.recording import LAUNCHED, Recorder
from apdm_cli.diffusion.sampling import SamplerSettings, initial_latents, sample, sample_latents
from apdm_cli.diffusion.saving import save_pipeline
from apdm_cli.errors import ApdmError
from apdm_cli.extension.attack import Artifact
from apdm_cli.extension.family import load_model
from apdm_cli.harness.artifacts import load_attacked
from apdm_cli.personalization.objective import personalization_loss
from apdm_cli.randomness import Streams
from apdm_cli.subject import Subject
from apdm_cli.testing import synthetic_photos
from apdm_families.checks import check_added_conditions, check_folder
from apdm_families.configurations import stable_diffusion_xl, write_configuration
from tests.attacks import plain_diffusers
from tests.diffusion.changes import drop_tensor, overwrite, remove, reshape_tensor, set_entry
from tests.diffusion.original_layout import original_layout
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


class PersistentDesk(Desk):
    """Protects against an attacker that lives on from step to step."""

    def run(self, command: str, *arguments: str, settings: tuple[str, ...] = ()) -> None:
        more = PERSISTENT if command == "protect" else ()
        super().run(command, *arguments, settings=(*settings, *more))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that tests only look at."""
    return make_tiny_xl(tmp_path_factory.mktemp("tiny") / "xl")


@pytest.fixture(scope="module")
def desk(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """All four commands have run."""
    desk = PersistentDesk(tmp_path_factory.mktemp("desk"), folder, "xl")
    desk.all_four(ATTACKS, ("lora.rank=2", "lora.text_encoder=true"), steps=2)
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


def test_photos_in_buckets_are_trained_on_with_their_own_sizes(
    folder: Path, tmp_path: Path
) -> None:
    """The U-Net is told of photos what was cut, and of class pictures that they are whole."""
    model, pipeline = load(folder), StableDiffusionXLPipeline.from_pretrained(folder)
    for name, size in (("0", (90, 60)), ("1", (60, 100)), ("2", (80, 80))):
        Image.new("RGB", size, "gray").save(tmp_path / f"{name}.png")
    cuts = load_cuts([tmp_path], buckets_for(model, 8))
    photos = encode_cuts(model, cuts)
    subject = Subject("ann", "person", "sks", synthetic_photos(model.resolution))
    prior = model.encode_pixels(subject.photos.pixels)
    attack = DreamBooth()
    config = attack.Config(batch_size=2)
    trainable = attack.trainable(model.private_copy(), subject, config)
    asked: dict[tuple[int, int], set[tuple[float, ...]]] = {}

    def note(network: Any, given: Any, named: Any) -> None:
        rows = named["added_cond_kwargs"]["time_ids"].tolist()
        asked.setdefault(tuple(given[0].shape[-2:]), set()).update(map(tuple, rows))

    trainable.model.trained.register_forward_pre_hook(note, with_kwargs=True)
    loss = personalization_loss(
        trainable, config, trainable.model, subject, photos, prior, Streams(0), "test"
    )
    for _ in range(24):
        loss()
    whole = (64.0, 64.0, 0.0, 0.0, 64.0, 64.0)
    # 90 by 60 becomes 80 by 53.3, 60 by 100 48 by 80, and 80 by 80 is a square as class pictures.
    expected = {
        (12, 20): ((60, 90), (2, 0), (48, 80)),
        (20, 12): ((100, 60), (0, 0), (80, 48)),
        (16, 16): ((80, 80), (0, 0), (64, 64)),
    }
    told = {
        shape: tuple(pipeline._get_add_time_ids(*one, torch.float32, POOLED)[0].tolist())
        for shape, one in expected.items()
    }
    assert asked == {
        shape: {row, whole} if shape == (16, 16) else {row} for shape, row in told.items()
    }


def test_gradients_reach_both_text_encoders(folder: Path) -> None:
    model = load(folder)
    encoders = [model.component(name) for name in model.family.text_encoders]
    for encoder in encoders:
        encoder.requires_grad_(True)
    condition = model.embed(PROMPTS)
    (condition["text"].sum() + condition["pooled"].sum()).backward()
    for encoder in encoders:
        assert encoder.get_input_embeddings().weight.grad.abs().max() > 0


@pytest.mark.parametrize("zeros", [True, False])
def test_guidance_starts_from_zeros_where_the_folder_says_so(zeros: bool, broken: Path) -> None:
    """And otherwise from the empty prompt: a setting of the pipeline, not one of its parts."""
    set_entry("model_index.json", "force_zeros_for_empty_prompt", zeros)(broken)
    model = load(broken)
    pipeline = StableDiffusionXLPipeline.from_pretrained(broken)
    starts = {ours.config["force_zeros_for_empty_prompt"] for ours in (model.pipeline, pipeline)}
    assert starts == {zeros}
    (ours,) = sample_latents(model, PROMPTS, [0, 1], OWN_SAMPLER)
    theirs = pipeline(
        PROMPTS,
        num_inference_steps=OWN_SAMPLER.steps,
        guidance_scale=OWN_SAMPLER.guidance,
        latents=initial_latents(model, [0, 1]),
        output_type="latent",
    ).images
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_training_noise_is_that_of_the_schedulers_betas(prediction: str, tmp_path: Path) -> None:
    """A folder with Euler's scheduler, whose sigmas are √((1 − ᾱ) / ᾱ) of the same ᾱ."""
    process = load(make_tiny_xl(tmp_path / "model", prediction_type=prediction)).process
    euler = EulerDiscreteScheduler.from_pretrained(tmp_path / "model", subfolder="scheduler")
    assert isinstance(process, Diffusion) and process.prediction_type == prediction
    assert torch.equal(process.alphas_cumprod, euler.alphas_cumprod)


# Folders and files as they are found


def test_a_folder_of_halves_in_several_files(folder: Path, tmp_path: Path) -> None:
    """Weights only as fp16, in shards; the protected folder is one that opens without a variant."""
    half = tmp_path / "half"
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, torch_dtype=torch.float16)
    pipeline.save_pretrained(half, variant="fp16", max_shard_size="20KB")
    assert len(list((half / "text_encoder_2").glob("model.fp16-*.safetensors"))) > 1
    model = load(half)
    expected = load(folder)
    for name, network in model.networks().items():
        assert all(weight.dtype == torch.float32 for weight in network.parameters())
        for key, weight in network.state_dict().items():
            rounded = expected.networks()[name].state_dict()[key].half().float()
            assert torch.equal(weight, rounded), (name, key)
    save_pipeline(model, tmp_path / "saved")
    again = StableDiffusionXLPipeline.from_pretrained(tmp_path / "saved")
    for name, network in model.networks().items():
        one, other = network.state_dict(), getattr(again, name).state_dict()
        assert all(torch.equal(one[key], other[key]) for key in one), name


@pytest.mark.parametrize("level", ["text_model.", ""])
def test_a_single_file_is_the_same_model(level: str, folder: Path, tmp_path: Path) -> None:
    """Also where CLIP's tensors lack a level in their names, as merges write them."""
    expected, file = load(folder), tmp_path / "one.safetensors"
    tensors = original_layout(expected.pipeline)
    clip = "conditioner.embedders.0.transformer."
    save_file(
        {name.replace(f"{clip}text_model.", clip + level): tensors[name] for name in tensors}, file
    )
    shutil.copytree(folder, file.with_suffix(""), ignore=shutil.ignore_patterns("*.safetensors"))
    found = load(file)
    for name, network in expected.networks().items():
        one, other = network.state_dict(), found.networks()[name].state_dict()
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one), name
    before, after = (each.encode_text(PROMPTS) for each in (expected, found))
    assert all(torch.equal(before[key], after[key]) for key in before.tensors)
    save_pipeline(found, tmp_path / "saved")
    assert torch.equal(_draw(load(tmp_path / "saved"), PROMPTS[0]), _draw(found, PROMPTS[0]))


def test_a_single_file_alone_is_taken_for_the_base_model(folder: Path, tmp_path: Path) -> None:
    # These weights are far too small for it.
    save_file(original_layout(load(folder).pipeline), tmp_path / "one.safetensors")
    with pytest.raises(ApdmError, match=r"one\.safetensors cannot be loaded"):
        load(tmp_path / "one.safetensors")


def test_pictures_are_decoded_in_the_autoencoders_own_precision(broken: Path) -> None:
    set_entry("vae/config.json", "force_upcast", True)(broken)
    model = load(broken, torch.float16)
    seen: set[torch.dtype] = set()
    layer = model.components["vae"].decoder.conv_in
    layer.register_forward_hook(lambda layer, given, answer: seen.add(answer.dtype))
    for _ in sample(model, PROMPTS, [0, 1], OWN_SAMPLER):
        assert not torch.is_autocast_enabled("cpu")
    assert seen == {torch.float32}


def test_a_recorded_unet_is_told_sizes_to_the_pixel(folder: Path) -> None:
    model = load(folder)
    condition = model.encode_text(PROMPTS[:1])
    told = model.family.told_sizes(condition, torch.tensor([[1333.0, 2001, 0, 517, 1024, 1536]]))
    seen: list[Tensor] = []

    def noted(network: Any, noisy: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
        seen.append(condition["sizes"])
        return model.family.predict(network, noisy, timesteps, condition)

    recorder = Recorder(noted, torch.bfloat16, model.family.exact)
    noisy, timesteps = torch.zeros(1, *model.latent_shape), torch.tensor([500])
    with torch.no_grad():
        for _ in range(LAUNCHED + 1):
            recorder(model.trained, noisy, timesteps, told)
    assert seen[-1] is not told["sizes"] and torch.equal(seen[-1], told["sizes"])


def test_the_published_configuration_has_the_published_sizes(tmp_path: Path) -> None:
    files = write_configuration(tmp_path, stable_diffusion_xl())
    check_folder(files, ("text_encoder", "text_encoder_2"))
    check_added_conditions(files)
    counts = {}
    with torch.device("meta"):
        counts["unet"] = UNet2DConditionModel.from_config(files / "unet")
        counts["vae"] = AutoencoderKL.from_config(files / "vae")
        for name, kind in (
            ("text_encoder", CLIPTextModel),
            ("text_encoder_2", CLIPTextModelWithProjection),
        ):
            counts[name] = kind(CLIPTextConfig.from_pretrained(files / name))
    assert {name: part.num_parameters() for name, part in counts.items()} == {
        "unet": 2_567_463_684,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
    }
    padding = [
        CLIPTokenizer.from_pretrained(files / name)("dog", padding="max_length").input_ids
        for name in ("tokenizer", "tokenizer_2")
    ]
    assert len(padding[0]) == len(padding[1]) == 77 and padding[0][:3] == padding[1][:3]
    assert (padding[0][-1], padding[1][-1]) == (49407, 0)


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
@pytest.mark.parametrize("more", ["attention", "feed_forward", "convolutions"])
def test_adapters_are_named_as_others_read_them(
    layout: str, more: str, folder: Path, tmp_path: Path
) -> None:
    adapted, again = load(folder), load(folder)
    family, names = adapted.family, ["unet", "text_encoder", "text_encoder_2"]
    for name in names:
        where = family.adapter_targets
        targets = list({*where.attention, *getattr(where, more)} if name == "unet" else where.text)
        config = LoraConfig(r=2, lora_alpha=3, target_modules=targets, init_lora_weights=False)
        inject_adapter_in_model(config, adapted.component(name))
    family.save_lora(adapted.components, names, tmp_path, layout)
    keys = load_file(tmp_path / "pytorch_lora_weights.safetensors")
    if layout == "kohya":
        assert {key.split("_")[1] for key in keys} == {"unet", "te1", "te2"}
    else:  # those of text encoders are what peft opens
        assert {key.split(".")[0] for key in keys} == {"unet"}
        for name in names[1:]:
            text = load_file(tmp_path / name / "adapter_model.safetensors")
            assert text and all(key.startswith("base_model.model.") for key in text)
    untouched = again.encode_text(PROMPTS[:1])
    family.load_lora(again.components, tmp_path)
    condition, latents = again.encode_text(PROMPTS[:1]), initial_latents(again, [0])
    for part, expected in adapted.encode_text(PROMPTS[:1]).tensors.items():
        assert torch.allclose(condition[part], expected, atol=1e-5)
        assert part == "sizes" or not torch.allclose(condition[part], untouched[part], atol=1e-3)
    draw = NoisyDraw(latents, latents, torch.tensor([500]))
    with torch.no_grad():
        one, other, plain = (
            model.denoiser.predict_each([draw], [condition])[0]
            for model in (adapted, again, load(folder))
        )
    assert torch.allclose(one, other, atol=1e-5) and not torch.allclose(one, plain, atol=1e-3)
    loras = [
        {n for n, part in model.trained.named_modules() if hasattr(part, "lora_A")}
        for model in (adapted, again)
    ]
    assert loras[0] == loras[1]


# The autoencoder in half precision


@pytest.fixture
def overflowing(broken: Path) -> Path:
    """An autoencoder whose numbers inside are finite in float32 and too large for float16."""
    file = broken / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    for name in ("encoder.conv_in.weight", "decoder.conv_in.weight"):
        tensors[name] *= 60_000 / tensors[name].abs().max()
    save_file(tensors, file, metadata={"format": "pt"})
    return broken


def test_an_autoencoder_that_asks_for_it_stays_in_float32(overflowing: Path) -> None:
    model, exact = load(overflowing, torch.float16), load(overflowing)
    assert model.component("text_encoder_2").dtype == torch.float16
    pixels = synthetic_photos(model.resolution).pixels
    assert torch.equal(model.encode_pixels(pixels).mean, exact.encode_pixels(pixels).mean)


def test_one_that_overflows_unasked_is_refused_with_the_remedy(overflowing: Path) -> None:
    set_entry("vae/config.json", "force_upcast", False)(overflowing)
    model = load(overflowing, torch.float16)
    remedy = "--dtype fp32 or bf16"
    with pytest.raises(ApdmError, match=r"autoencoder .* not finite") as caught:
        model.encode_pixels(synthetic_photos(model.resolution).pixels)
    assert remedy in caught.value.hint
    with pytest.raises(ApdmError, match=r"autoencoder draws pictures .* not finite") as caught:
        list(sample(model, PROMPTS[:1], [0], OWN_SAMPLER, strict=True))
    assert remedy in caught.value.hint


# What is not supported, or not whole


def no_first_encoder(folder: Path) -> None:
    shutil.rmtree(folder / "text_encoder")
    set_entry("model_index.json", "text_encoder", [None, None])(folder)


def entries(file: str, **values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for key, value in values.items():
            set_entry(file, key, value)(folder)

    return change


UNET, SECOND, INDEX = "unet/config.json", "text_encoder_2/config.json", "model_index.json"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (no_first_encoder, "the refiner of Stable Diffusion XL"),
        (entries(INDEX, _class_name="StableDiffusionXLInpaintPipeline"), "an inpainting model"),
        (entries(INDEX, _class_name="StableDiffusionXLImg2ImgPipeline"), "more than a prompt"),
        (entries(UNET, in_channels=9), "an inpainting model"),
        (entries(UNET, addition_embed_type=None), "addition_embed_type is None"),
        (entries(UNET, projection_class_embeddings_input_dim=59), "59, and should be 60"),
        (entries(SECOND, projection_dim=16), "60, and should be 64"),
        (entries(SECOND, hidden_size=32), r"40 there, hidden_size 16 \+ 32 here"),
        (
            entries("scheduler/scheduler_config.json", _class_name="EDMEulerScheduler"),
            "trained for EDMEulerScheduler",
        ),
        *[(remove(part), f"lacks its part {part}") for part in ("text_encoder_2", "tokenizer_2")],
        (overwrite("tokenizer_2/tokenizer.json"), "cannot be loaded"),
        (drop_tensor("text_encoder_2/model.safetensors"), "text_encoder_2 lacks tensors"),
        (reshape_tensor("text_encoder_2/model.safetensors"), "shape"),
    ],
)
def test_refused_folders(
    broken: Path,
    change: Callable[[Path], None],
    words: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    change(broken)
    with pytest.raises(ApdmError, match=words) as caught:
        load(broken)
    assert str(broken) in caught.value.what and caught.value.hint
    assert capfd.readouterr() == ("", "")  # the libraries' own reports stay away


def without(prefix: str) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if name.startswith(prefix)]:
            del tensors[name]

    return change


def as_refiner(tensors: dict[str, Tensor]) -> None:
    """Its only text encoder is OpenCLIP's, in the first place."""
    without("conditioner.embedders.0.")(tensors)
    for name in [name for name in tensors if name.startswith("conditioner.")]:
        tensors[name.replace("embedders.1.", "embedders.0.")] = tensors.pop(name)


def with_mask(tensors: dict[str, Tensor]) -> None:
    tensors["model.diffusion_model.input_blocks.0.0.weight"] = torch.zeros(16, 9, 3, 3)


def marked_as_velocity(tensors: dict[str, Tensor]) -> None:
    tensors["v_pred"] = torch.zeros(0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("first_stage_model."), 'lacks its autoencoder (a "no-vae" file)'),
        (without("conditioner.embedders.1."), "lacks its second text encoder"),
        (as_refiner, "lacks its first text encoder (as the refiner does)"),
        (with_mask, "an inpainting model"),
        (marked_as_velocity, "says that it predicts velocity"),
    ],
)
def test_refused_files(
    change: Callable[[dict[str, Tensor]], None], words: str, folder: Path, tmp_path: Path
) -> None:
    tensors, file = original_layout(load(folder).pipeline), tmp_path / "one.safetensors"
    change(tensors)
    save_file(tensors, file)
    with pytest.raises(ApdmError) as caught:
        load(file)
    assert words in caught.value.what and str(file) in caught.value.what and caught.value.hint


# Through the commands, and out of them


def test_protection_trains_the_unet_and_keeps_the_rest(desk: Desk) -> None:
    assert desk.read("manifest.json")["configuration"]["attackers"]["kind"] == "persistent"
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
    assert ours.shape == theirs.shape == (2, 64, 64, 3)
    assert (ours.int() - theirs.int()).abs().max() <= 1  # how tensors lie in memory rounds some
    if name != "protected":
        assert not torch.equal(ours, plain["protected"][0])


def _draw(model: DiffusionModel, prompt: str) -> Tensor:
    return torch.cat(list(sample(model, [prompt] * 2, [0, 1], OWN_SAMPLER)))
