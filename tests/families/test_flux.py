"""FLUX.1 on random weights of the real classes: through the commands, and against FluxPipeline."""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import T5EncoderModel

from apdm_cli.diffusion.denoiser import NoisyDraw
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.saving import save_pipeline
from apdm_cli.errors import ApdmError
from apdm_cli.extension.family import load_model
from apdm_cli.testing import FamilyContract
from apdm_families.flux import TRAINING_GUIDANCE, Flux
from tests.families.tiny_flow import SEQUENCE, make_tiny_flux

CPU = torch.device("cpu")
PROMPT = "a photo of sks person"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_flux(tmp_path_factory.mktemp("flux") / "model")


@pytest.fixture(scope="module")
def model(folder: Path) -> DiffusionModel:
    return load_model(str(folder), CPU)


class TestFlux(FamilyContract):
    family = Flux()

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return make_tiny_flux(tmp_path_factory.mktemp("contract") / "model")


# Against diffusers


def asked_by_diffusers(model: DiffusionModel, noisy: Tensor, timesteps: Tensor) -> Tensor:
    """The transformer's answer as `FluxPipeline.__call__` asks for it, still packed."""
    pipe: Any = model.pipeline
    sequence, pooled, text_ids = pipe.encode_prompt([PROMPT] * 2, max_sequence_length=SEQUENCE)
    packed = pipe._pack_latents(noisy, *noisy.shape)
    half = noisy.shape[-1] // 2
    guidance = (
        torch.full([2], TRAINING_GUIDANCE) if pipe.transformer.config.guidance_embeds else None
    )
    return pipe.transformer(
        hidden_states=packed,
        timestep=timesteps / 1000,
        guidance=guidance,
        pooled_projections=pooled,
        encoder_hidden_states=sequence,
        txt_ids=text_ids,
        img_ids=pipe._prepare_latent_image_ids(2, half, half, CPU, torch.float32),
        return_dict=False,
    )[0]


@pytest.mark.parametrize("guidance", [True, False])
@torch.no_grad()
def test_the_denoiser_asks_as_the_pipeline_does(guidance: bool, tmp_path: Path) -> None:
    model = load_model(str(make_tiny_flux(tmp_path / "model", guidance=guidance)), CPU)
    noisy = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(1))
    timesteps = torch.tensor([120.0, 900.0])
    mine = model.denoiser.predict(noisy, timesteps, model.encode_text([PROMPT] * 2))
    expected = asked_by_diffusers(model, noisy, timesteps)
    pipe: Any = model.pipeline
    assert torch.equal(pipe._pack_latents(mine, *mine.shape), expected)
    assert torch.equal(pipe._unpack_latents(expected, 32, 32, pipe.vae_scale_factor), mine)


@torch.no_grad()
def test_the_error_that_losses_see_is_that_of_the_velocity(model: DiffusionModel) -> None:
    """‖v_θ(x_t, t) − (ε − x)‖² at x_t = (1 − σ) x + σ ε, whichever loss or margin it goes into."""
    latents, noise = torch.randn(
        2, 2, *model.latent_shape, generator=torch.Generator().manual_seed(1)
    )
    sigma = torch.tensor([0.2, 0.7]).view(2, 1, 1, 1)
    draw = NoisyDraw(latents, noise, 1000 * sigma.flatten())
    (found,) = model.denoiser.squared_errors([draw], [model.encode_text([PROMPT] * 2)])
    answer = asked_by_diffusers(model, (1 - sigma) * latents + sigma * noise, draw.timesteps)
    pipe: Any = model.pipeline
    velocity = pipe._unpack_latents(answer, 32, 32, pipe.vae_scale_factor)
    assert torch.allclose(found, (velocity - (noise - latents)).square(), atol=1e-5)


@torch.no_grad()
def test_latents_are_shifted_then_scaled(model: DiffusionModel) -> None:
    pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    found, vae = model.encode_pixels(pixels), model.component("vae")
    posterior = vae.encode(pixels).latent_dist
    assert torch.allclose(found.mean, (posterior.mean - 0.1159) * 0.3611)
    assert torch.allclose(found.std, posterior.std * 0.3611)
    assert torch.allclose(
        model.decode(found.mean),
        (vae.decode(posterior.mean).sample / 2 + 0.5).clamp(0, 1),
        atol=1e-5,
    )


def test_training_timesteps_are_not_shifted_where_drawing_shifts_them(
    model: DiffusionModel,
) -> None:
    assert model.component("scheduler").config.shift == 3.0
    drawn = model.process.draw_timesteps(4000, (0.0, 1.0), torch.Generator().manual_seed(0))
    assert abs(drawn.median().item() - 500) < 20


# Folders and files


def test_an_fp16_variant_in_shards_is_opened_and_saved_under_plain_names(
    folder: Path, tmp_path: Path
) -> None:
    from diffusers import FluxPipeline

    model, variant = load_model(str(folder), CPU), tmp_path / "variant"
    shutil.copytree(folder, variant)
    for name in ("transformer", "text_encoder_2"):
        for file in variant.glob(f"{name}/*.safetensors"):
            file.unlink()
        half = model.component(name).half()
        half.save_pretrained(variant / name, variant="fp16", max_shard_size="25KB")
        assert len(list(variant.glob(f"{name}/*.fp16-0*.safetensors"))) > 1
    opened = load_model(str(variant), CPU)
    save_pipeline(opened, tmp_path / "saved")
    plain = FluxPipeline.from_pretrained(tmp_path / "saved", use_safetensors=True)
    for name in ("transformer", "text_encoder_2"):
        pairs = zip(
            getattr(plain, name).parameters(), opened.component(name).parameters(), strict=True
        )
        assert all(torch.equal(one.float(), other) for one, other in pairs), name


def original_layout(folder: Path) -> dict[str, Tensor]:
    """The tensors of the transformer in `folder` as Black Forest Labs names them."""
    state, found = load_file(folder / "transformer/diffusion_pytorch_model.safetensors"), {}

    def take(new: str, *old: str) -> None:
        for kind in ("weight", "bias"):
            if f"{old[0]}.{kind}" in state:
                found[f"{new}.{kind}"] = torch.cat([state[f"{name}.{kind}"] for name in old])

    for new, old in (
        ("time_in", "timestep_embedder"),
        ("guidance_in", "guidance_embedder"),
        ("vector_in", "text_embedder"),
    ):
        take(f"{new}.in_layer", f"time_text_embed.{old}.linear_1")
        take(f"{new}.out_layer", f"time_text_embed.{old}.linear_2")
    take("txt_in", "context_embedder")
    take("img_in", "x_embedder")
    take("final_layer.linear", "proj_out")
    for kind in ("weight", "bias"):  # scale and shift change places
        scale, shift = state[f"norm_out.linear.{kind}"].chunk(2)
        found[f"final_layer.adaLN_modulation.1.{kind}"] = torch.cat([shift, scale])
    block = "transformer_blocks.0"
    for stream, norm, ff, queries, out in (
        ("img", "norm1", "ff", ("to_q", "to_k", "to_v"), "to_out.0"),
        (
            "txt",
            "norm1_context",
            "ff_context",
            ("add_q_proj", "add_k_proj", "add_v_proj"),
            "to_add_out",
        ),
    ):
        new = f"double_blocks.0.{stream}"
        take(f"{new}_mod.lin", f"{block}.{norm}.linear")
        take(f"{new}_attn.qkv", *(f"{block}.attn.{name}" for name in queries))
        take(f"{new}_attn.proj", f"{block}.attn.{out}")
        take(f"{new}_mlp.0", f"{block}.{ff}.net.0.proj")
        take(f"{new}_mlp.2", f"{block}.{ff}.net.2")
        added = "added_" if stream == "txt" else ""
        for letter, word in (("q", "query"), ("k", "key")):
            found[f"{new}_attn.norm.{word}_norm.scale"] = state[
                f"{block}.attn.norm_{added}{letter}.weight"
            ]
    block = "single_transformer_blocks.0"
    take("single_blocks.0.modulation.lin", f"{block}.norm.linear")
    names = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
    take("single_blocks.0.linear1", *(f"{block}.{name}" for name in names))
    take("single_blocks.0.linear2", f"{block}.proj_out")
    for letter, word in (("q", "query"), ("k", "key")):
        found[f"single_blocks.0.norm.{word}_norm.scale"] = state[
            f"{block}.attn.norm_{letter}.weight"
        ]
    return {name: tensor.contiguous() for name, tensor in found.items()}


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers' converter has the width of FLUX.1 in it, 3072; here it is that of the tests."""
    from diffusers.loaders import single_file_model, single_file_utils

    convert = single_file_utils.convert_flux_transformer_checkpoint_to_diffusers
    source, space = inspect.getsource(convert), dict(vars(single_file_utils))
    assert source.count("3072") == 1
    exec(source.replace("3072", "32"), space)
    entry = single_file_model.SINGLE_FILE_LOADABLE_CLASSES["FluxTransformer2DModel"]
    monkeypatch.setitem(entry, "checkpoint_mapping_fn", space[convert.__name__])


def beside(folder: Path, file: Path) -> None:
    """`folder` without its transformer's weights, where those in `file` look for the rest."""
    shutil.copytree(folder, file.with_suffix(""))
    (file.with_suffix("") / "transformer/diffusion_pytorch_model.safetensors").unlink()


@pytest.mark.usefixtures("narrow")
def test_a_single_file_takes_the_rest_from_the_folder_beside_it(
    model: DiffusionModel, folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "one.safetensors"
    beside(folder, file)
    save_file(original_layout(folder), file)
    opened = load_model(str(file), CPU)
    state = opened.trained.state_dict()
    expected = model.trained.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in state)
    save_pipeline(load_model(str(file), CPU, torch.bfloat16), tmp_path / "saved")
    for part in ("vae", "text_encoder", "text_encoder_2", "tokenizer_2", "scheduler"):
        for published in (folder / part).iterdir():
            saved = tmp_path / "saved" / part / published.name
            assert saved.read_bytes() == published.read_bytes()


def test_t5_in_float16_is_as_transformers_holds_it(folder: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(folder, tmp_path / "model"))
    wide = T5EncoderModel.from_pretrained(own / "text_encoder_2", dtype=torch.float32)
    with torch.no_grad():
        for name, weight in wide.named_parameters():
            if ".wo." in name:
                weight.mul_(6e4 / weight.abs().max())
            if ".wi" in name:
                weight.mul_(6)
    wide.save_pretrained(own / "text_encoder_2")
    exact = load_model(str(own), CPU).encode_text([PROMPT])["sequence"]
    half = load_model(str(own), CPU, torch.float16)
    with torch.autocast("cpu", dtype=torch.float16):  # as drawing asks
        found = half.encode_text([PROMPT])["sequence"]
        assert torch.is_autocast_enabled("cpu")
    half.components["text_encoder_2"] = T5EncoderModel.from_pretrained(
        own / "text_encoder_2", dtype=torch.float16
    )
    theirs = half.encode_text([PROMPT])["sequence"]
    assert torch.equal(found, theirs)
    assert (theirs - exact).norm() < 0.01 * exact.norm()


@pytest.mark.parametrize(
    ("dtype", "remedy"),
    [(torch.float16, "--dtype bf16 or fp32"), (torch.float32, "The model is damaged")],
)
def test_conditions_that_are_not_finite_are_refused_with_the_remedy(
    folder: Path, dtype: torch.dtype, remedy: str
) -> None:
    model = load_model(str(folder), CPU, dtype)
    with torch.no_grad():
        model.component("text_encoder_2").encoder.final_layer_norm.weight.fill_(torch.inf)
    with pytest.raises(ApdmError, match="numbers of a prompt that are not finite") as caught:
        model.encode_text([PROMPT])
    assert remedy in caught.value.hint


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("final_layer.linear.bias", "cannot be loaded: .*final_layer.linear.bias"),
        ("guidance_in", "it lacks tensors that its transformer/config.json asks for"),
    ],
)
def test_a_single_file_without_a_tensor_is_refused(
    name: str, words: str, folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "one.safetensors"
    beside(folder, file)
    tensors = original_layout(folder)
    save_file({key: value for key, value in tensors.items() if not key.startswith(name)}, file)
    with pytest.raises(ApdmError, match=words):
        load_model(str(file), CPU)


def test_a_quantized_file_is_refused(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "one.safetensors"
    beside(folder, file)
    scale = {"double_blocks.0.img_mlp.0.scale_weight": torch.ones(())}
    save_file(original_layout(folder) | scale, file)
    with pytest.raises(ApdmError, match="quantized weights"):
        load_model(str(file), CPU)


def test_a_single_file_alone_says_what_is_missing(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "one.safetensors"
    save_file(original_layout(folder), file)
    with pytest.raises(ApdmError, match=r"holds the transformer of FLUX\.1 .* not all") as caught:
        load_model(str(file), CPU)
    assert str(tmp_path / "one") in caught.value.hint


def test_a_lora_is_no_transformer(tmp_path: Path) -> None:
    file = tmp_path / "one.safetensors"
    save_file({"double_blocks.0.img_attn.proj.lora_A.weight": torch.zeros(1)}, file)
    with pytest.raises(ApdmError, match="a LoRA, which is no whole model"):
        load_model(str(file), CPU)


def remove(folder: Path, name: str) -> None:
    shutil.rmtree(folder / name)


def edit(folder: Path, file: str, old: str, new: str) -> None:
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ((remove, "text_encoder_2"), "lacks its part text_encoder_2"),
        ((remove, "tokenizer_2"), "lacks its part tokenizer_2"),
        (
            (edit, "model_index.json", '"FlowMatchEulerDiscreteScheduler"', '"DDIMScheduler"'),
            "says nothing about flow matching",
        ),
        ((edit, "vae/config.json", '"sample_size": 32', '"sample_size": 30'), "a multiple of 8"),
        (
            (edit, "model_index.json", '"FluxPipeline"', '"FluxFillPipeline"'),
            r"FLUX \(FluxFillPipeline\): not supported yet",
        ),
        (
            (edit, "transformer/config.json", '"in_channels": 16', '"in_channels": 96'),
            "transformer",
        ),
    ],
)
def test_broken_folders_are_refused_in_a_sentence(
    change: tuple[Any, ...], words: str, folder: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    change[0](broken, *change[1:])
    with pytest.raises(ApdmError, match=words) as caught:
        load_model(str(broken), CPU)
    assert caught.value.hint and str(broken) in caught.value.what


def test_pickled_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / "text_encoder_2/model.safetensors").rename(
        broken / "text_encoder_2/pytorch_model.bin"
    )
    with pytest.raises(ApdmError, match="text_encoder_2 has no safetensors, only pickled weights"):
        load_model(str(broken), CPU)
