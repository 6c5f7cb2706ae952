"""Z-Image, FLUX.2 [klein] and Qwen-Image: their contracts, latents, words and broken folders.

The commands, and what their pipelines compute, are in test_flow_families.py.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.sampling import SamplerSettings, sample_latents
from apdm_cli.diffusion.saving import save_pipeline
from apdm_cli.diffusion.words import check_vocabulary
from apdm_cli.errors import ApdmError, UsageError
from apdm_cli.extension.family import load_model
from apdm_cli.protection.activations import activation_bytes
from apdm_cli.testing import FamilyContract, synthetic_photos
from apdm_families.flux_2 import Flux2
from apdm_families.qwen_image import QwenImage
from apdm_families.z_image import ZImage
from tests.diffusion.changes import drop_tensor, remove, reshape_tensor, set_entry
from tests.families.tiny_chat import (
    SIDE,
    make_tiny_flux2,
    make_tiny_qwen_image,
    make_tiny_z_image,
)

CPU = torch.device("cpu")
PROMPT = "a photo of sks person"
TEXT = "text_encoder"
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
MAKE = {"z-image": make_tiny_z_image, "flux2": make_tiny_flux2, "qwen-image": make_tiny_qwen_image}


@pytest.fixture(scope="module", autouse=True)
def small_pictures() -> Iterator[None]:
    """Qwen-Image's files do not say how large its pictures are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(QwenImage, "side", SIDE)
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One of every family, which tests only look at."""
    return {name: make(tmp_path_factory.mktemp(name) / "model") for name, make in MAKE.items()}


class TestZImage(FamilyContract):
    family = ZImage()

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, folders: dict[str, Path]) -> Path:
        return folders["z-image"]


class TestFlux2(FamilyContract):
    family = Flux2()

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, folders: dict[str, Path]) -> Path:
        return folders["flux2"]


class TestQwenImage(FamilyContract):
    family = QwenImage()

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, folders: dict[str, Path]) -> Path:
        return folders["qwen-image"]


# Latents


def seen_by_diffusers(model: DiffusionModel, pixels: torch.Tensor) -> tuple[Any, torch.Tensor]:
    """The posterior of the autoencoder itself, and what the pipeline decodes of its mean."""
    vae = model.component("vae")
    video = pixels.unsqueeze(2) if model.family.name == "qwen-image" else pixels
    posterior = vae.encode(video).latent_dist
    picture = vae.decode(posterior.mean).sample
    return posterior, picture[:, :, 0] if picture.dim() == 5 else picture


@pytest.mark.parametrize("name", MAKE)
@torch.no_grad()
def test_latents_come_back_as_the_autoencoders_own(name: str, folders: dict[str, Path]) -> None:
    model = load_model(str(folders[name]), CPU)
    pixels = synthetic_photos(model.resolution).pixels
    posterior, picture = seen_by_diffusers(model, pixels)
    found, vae = model.encode_pixels(pixels), model.component("vae")
    assert torch.allclose(model.decode(found.mean), (picture / 2 + 0.5).clamp(0, 1), atol=1e-4)
    if name == "z-image":
        assert torch.allclose(found.mean, (posterior.mean - 0.1159) * 0.3611, atol=1e-5)
        assert torch.allclose(found.std, posterior.std * 0.3611, atol=1e-5)
    elif name == "flux2":
        expected = model.pipeline._encode_vae_image(pixels, torch.Generator())
        assert torch.allclose(found.mean, expected, atol=1e-5)
        assert not found.std.any(), "the pipeline takes the mean"
    else:
        mean, deviation = (
            torch.tensor(values).view(1, -1, 1, 1, 1)
            for values in (vae.config.latents_mean, vae.config.latents_std)
        )
        expected = ((posterior.mean - mean) / deviation).squeeze(2)
        assert torch.allclose(found.mean, expected, atol=1e-5)
        assert torch.allclose(found.std, (posterior.std / deviation).squeeze(2), atol=1e-5)


@pytest.mark.parametrize(("name", "median"), [("z-image", 750), ("flux2", 500)])
def test_training_timesteps_follow_the_scheduler(
    name: str, median: float, folders: dict[str, Path]
) -> None:
    """A static shift of 3 is trained with; a dynamic one belongs to drawing."""
    process = load_model(str(folders[name]), CPU).process
    drawn = process.draw_timesteps(4000, (0.0, 1.0), torch.Generator().manual_seed(0))
    assert abs(drawn.median().item() - median) < 20


@pytest.mark.parametrize("name", MAKE)
@torch.no_grad()
def test_half_precision_computes_the_same(name: str, folders: dict[str, Path]) -> None:
    """In bf16, and with a frozen network in it, as a protection by an adapter holds it."""
    noise = torch.randn(2, *load_model(str(folders[name]), CPU).latent_shape)
    timesteps, answers = torch.tensor([120.0, 900.0]), []
    for dtype, frozen in ((torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)):
        model = load_model(str(folders[name]), CPU, dtype, frozen=frozen)
        condition = model.encode_text([PROMPT, "a dog"])
        answers.append(model.denoiser.predict(noise, timesteps, condition))
    scale = answers[0].std()
    for answer in answers[1:]:
        assert (answer - answers[0]).square().mean().sqrt() < 0.05 * scale


@pytest.mark.parametrize("name", ["z-image", "qwen-image"])
def test_its_memory_is_foreseen_and_nothing_of_that_is_left(
    name: str, folders: dict[str, Path]
) -> None:
    """Networks keep tables of positions; numbers without content must not get into them."""
    model = load_model(str(folders[name]), CPU)
    condition = model.encode_text([PROMPT])
    one, two = (
        activation_bytes(model.denoiser, condition, model.latent_shape, count, one_forward=True)
        for count in (1, 2)
    )
    assert two > 1.5 * one > 0
    noisy, timesteps = torch.ones(1, *model.latent_shape), torch.tensor([500.0])
    with torch.no_grad():
        found = model.denoiser.predict(noisy, timesteps, condition)
    assert type(found) is torch.Tensor and torch.isfinite(found).all()


# Guidance


@torch.no_grad()
def test_a_distilled_model_ignores_the_guidance(folders: dict[str, Path], tmp_path: Path) -> None:
    """What the index says of it reaches the drawing, and the protected folder."""
    model = load_model(str(make_tiny_flux2(tmp_path / "model", distilled=True)), CPU)
    save_pipeline(model, tmp_path / "saved")
    again = load_model(str(tmp_path / "saved"), CPU)
    base = load_model(str(folders["flux2"]), CPU)

    def drawn(model: DiffusionModel, guidance: float) -> torch.Tensor:
        settings = SamplerSettings(sampler="euler", steps=2, guidance=guidance)
        return next(sample_latents(model, [PROMPT], [0], settings))

    assert torch.equal(drawn(model, 4.0), drawn(model, 1.0))
    assert torch.equal(drawn(model, 4.0), drawn(again, 4.0))
    assert not torch.allclose(drawn(base, 4.0), drawn(base, 1.0), atol=1e-4)


def test_one_step_is_refused_where_the_scheduler_has_an_end_of_its_own(
    folders: dict[str, Path],
) -> None:
    """diffusers draws NaN there."""
    model = load_model(str(folders["qwen-image"]), CPU)
    settings = SamplerSettings(sampler="euler", steps=1, guidance=1.0)
    with pytest.raises(UsageError, match="cannot be drawn in one step"):
        next(sample_latents(model, [PROMPT], [0], settings))
    more = settings.model_copy(update={"steps": 2})
    assert torch.isfinite(next(sample_latents(model, [PROMPT], [0], more))).all()


# Words


@pytest.mark.parametrize("name", MAKE)
def test_a_class_noun_that_falls_off_the_end_is_refused(
    name: str, folders: dict[str, Path]
) -> None:
    """Words around the prompt take their part of what the model reads."""
    model = load_model(str(folders[name]), CPU)
    room = model.family.longest_prompt(model.components)
    assert room is not None
    # "a photo of", an identifier of as many words, and the noun.
    fits, long = (" ".join(["sks"] * count) for count in (room - 4, room - 3))
    check_vocabulary(model, "person", fits)
    with pytest.raises(ApdmError, match=f"{room + 1} tokens, the model reads {room}, and 'person'"):
        check_vocabulary(model, "person", long)
    kept, lost = (
        model.encode_text([f"a photo of {words} {noun}" for noun in ("person", "dog")])["sequence"]
        for words in (fits, f"{long} {fits}")
    )
    assert not torch.equal(kept[0], kept[1])
    assert torch.equal(lost[0], lost[1])


# Broken folders, and files


Change = Callable[[Path], None]


def other_encoder(width: int, layers: int) -> Change:
    """A change of Qwen3 for another."""

    def change(folder: Path) -> None:
        kind = getattr(transformers, json.loads((folder / "model_index.json").read_text())[TEXT][1])
        config = kind.config_class.from_pretrained(folder / TEXT)
        config.hidden_size, config.num_hidden_layers, config.layer_types = width, layers, None
        shutil.rmtree(folder / TEXT)
        kind(kind.config_class(**config.to_diff_dict())).save_pretrained(folder / TEXT)

    return change


def other_autoencoder(folder: Path) -> None:
    """A change for one with 8 channels."""
    kind = getattr(diffusers, json.loads((folder / "model_index.json").read_text())["vae"][1])
    config = dict(kind.load_config(folder / "vae"))
    if "z_dim" in config:
        config |= {"z_dim": 8, "latents_mean": [0.0] * 8, "latents_std": [1.0] * 8}
    else:
        config |= {"latent_channels": 8}
    kind.from_config(config).save_pretrained(folder / "vae")


def named(name: str) -> Change:
    """A change of the pipeline's name."""
    return set_entry("model_index.json", "_class_name", name)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        *(
            (name, remove(part), f"lacks its part {part}")
            for name in MAKE
            for part in (TEXT, "vae")
        ),
        *(
            (name, remove("tokenizer/chat_template.jinja"), "has no chat_template")
            for name in ("z-image", "flux2")
        ),
        (
            *("z-image", set_entry("tokenizer/tokenizer_config.json", "model_max_length", 8)),
            "the model_max_length of its tokenizer is 8, which the words around a prompt fill",
        ),
        ("z-image", set_entry("scheduler/scheduler_config.json", "shift", -1.0), "the shift -1"),
        ("z-image", set_entry("vae/config.json", "sample_size", 30), "a multiple of 8"),
        ("z-image", drop_tensor(WEIGHTS), "transformer lacks tensors: x_pad_token"),
        ("flux2", reshape_tensor(WEIGHTS), "transformer"),
        ("z-image", other_autoencoder, "takes 4 channels, and latents of its autoencoder have 8"),
        ("flux2", other_autoencoder, "takes 16 channels, and packed latents .* have 32"),
        ("qwen-image", other_autoencoder, "takes 16 channels, and packed latents .* have 32"),
        ("z-image", other_encoder(24, 2), "takes 16 numbers a token, and hidden states .* have 24"),
        ("flux2", other_encoder(24, 27), "takes 48 numbers a token, and three layers .* have 72"),
        ("flux2", other_encoder(16, 3), "has 3 layers, of which number 9, 18, 27 are read"),
        (
            "z-image",
            named("ZImageImg2ImgPipeline"),
            r"Z-Image \(ZImageImg2Img.*: not supp",
        ),
        ("flux2", named("Flux2Pipeline"), r"FLUX\.2 \(Flux2Pipeline\): not supported yet"),
        ("qwen-image", named("QwenImageEditPipeline"), r"Qwen-Image \(QwenImageEdit.*: not supp"),
    ],
)
def test_broken_folders_are_refused_in_a_sentence(
    name: str, change: Change, words: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folders[name], tmp_path / "broken"))
    change(folder)
    with pytest.raises(ApdmError, match=words) as caught:
        load_model(str(folder), CPU)
    assert caught.value.hint and str(folder) in caught.value.what
    if "not supp" in words:
        for family in (ZImage, Flux2, QwenImage):
            assert family.title in caught.value.hint
        assert "docs/models.md" in caught.value.hint
        assert "docs/write-a-family.md" in caught.value.hint


def z_image_layout(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The names of the published checkpoint, in which queries, keys and values are one matrix."""
    found = {}
    for name, tensor in state.items():
        if ".to_q." in name:
            each = [state[name.replace("to_q", f"to_{letter}")] for letter in "qkv"]
            found[name.replace("to_q", "qkv")] = torch.cat(each)
        elif ".to_k." not in name and ".to_v." not in name:
            for old, new in (
                *((".to_out.0.", ".out."), (".norm_q.", ".q_norm."), (".norm_k.", ".k_norm.")),
                *(("all_final_layer.2-1.", "final_layer."), ("all_x_embedder.2-1.", "x_embedder.")),
            ):
                name = name.replace(old, new)
            found[name] = tensor
    return found


def flux2_layout(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The names that Black Forest Labs gives them."""
    plain = {
        **{"img_in": "x_embedder", "txt_in": "context_embedder", "final_layer.linear": "proj_out"},
        "time_in.in_layer": "time_guidance_embed.timestep_embedder.linear_1",
        "time_in.out_layer": "time_guidance_embed.timestep_embedder.linear_2",
        "double_stream_modulation_img.lin": "double_stream_modulation_img.linear",
        "double_stream_modulation_txt.lin": "double_stream_modulation_txt.linear",
        "single_stream_modulation.lin": "single_stream_modulation.linear",
    }
    double, single = "transformer_blocks.0", "single_transformer_blocks.0.attn"
    scales = {}
    for stream, out, ff, added in (
        ("img", "to_out.0", "ff", ""),
        ("txt", "to_add_out", "ff_context", "added_"),
    ):
        plain[f"double_blocks.0.{stream}_attn.proj"] = f"{double}.attn.{out}"
        plain[f"double_blocks.0.{stream}_mlp.0"] = f"{double}.{ff}.linear_in"
        plain[f"double_blocks.0.{stream}_mlp.2"] = f"{double}.{ff}.linear_out"
        for word in ("query", "key"):
            scales[f"double_blocks.0.{stream}_attn.norm.{word}_norm"] = (
                f"{double}.attn.norm_{added}{word[0]}"
            )
    for word in ("query", "key"):
        scales[f"single_blocks.0.norm.{word}_norm"] = f"{single}.norm_{word[0]}"
    plain |= {"single_blocks.0.linear1": f"{single}.to_qkv_mlp_proj"}
    plain |= {"single_blocks.0.linear2": f"{single}.to_out"}
    found = {f"{new}.weight": state[f"{old}.weight"] for new, old in plain.items()}
    found |= {f"{new}.scale": state[f"{old}.weight"] for new, old in scales.items()}
    for stream, ends in (("img", ("to_q", "to_k", "to_v")), ("txt", ("add_q", "add_k", "add_v"))):
        names = [f"{double}.attn.{end}{'' if stream == 'img' else '_proj'}.weight" for end in ends]
        found[f"double_blocks.0.{stream}_attn.qkv.weight"] = torch.cat([state[n] for n in names])
    scale, shift = state["norm_out.linear.weight"].chunk(2)
    return found | {"final_layer.adaLN_modulation.1.weight": torch.cat([shift, scale])}


@pytest.mark.parametrize(
    ("name", "layout"),
    [("z-image", z_image_layout), ("flux2", flux2_layout), ("qwen-image", dict)],
    ids=MAKE,
)
def test_a_single_file_takes_the_rest_from_the_folder_beside_it(
    name: str,
    layout: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
    folders: dict[str, Path],
    tmp_path: Path,
) -> None:
    file, expected = tmp_path / "one.safetensors", load_file(folders[name] / WEIGHTS)
    save_file({key: tensor.contiguous() for key, tensor in layout(expected).items()}, file)
    with pytest.raises(ApdmError, match=r"holds the transformer of .* and not all") as caught:
        load_model(str(file), CPU)
    assert str(tmp_path / "one") in caught.value.hint
    shutil.copytree(folders[name], tmp_path / "one")
    (tmp_path / "one" / WEIGHTS).unlink()
    model = load_model(str(file), CPU)
    assert model.family.name == name
    state = model.trained.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in state)
