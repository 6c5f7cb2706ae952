"""Every family of flow matching on random weights of the real classes: the commands, and diffusers.

All families are in one file because one process without `apdm` draws for all of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from apdm_cli.diffusion.buckets import buckets_for
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.extension.family import load_model
from apdm_families.qwen_image import QwenImage
from apdm_families.stable_diffusion_3 import LONGEST_SEQUENCE
from tests.families.desk import Desk
from tests.families.plain import Drawn, drawn_by_both
from tests.families.plain_flow import packed
from tests.families.tiny_chat import (
    READ,
    SIDE,
    make_tiny_flux2,
    make_tiny_qwen_image,
    make_tiny_z_image,
)
from tests.families.tiny_flow import SEQUENCE, make_tiny_flux, make_tiny_sd3

CPU = torch.device("cpu")
PROMPT = "a photo of sks person"
LORA = ("lora.feed_forward=true", "lora.rank=2")
Refused = tuple[str, Mapping[str, Any], str]
REFUSED: tuple[Refused, ...] = (
    ("textual-inversion", {}, "a new token needs a model with one tokenizer"),
    ("custom-diffusion", {}, "a new token needs a model with one tokenizer"),
    ("lora", {"export": "kohya"}, "lora.export: adapters of"),
)
CHAT: tuple[Refused, ...] = (
    ("dreambooth-text", {}, "dreambooth-text: the text encoder of"),
    ("lora", {"text_encoder": True}, "lora.text_encoder: the text encoder of"),
)


@dataclass(frozen=True)
class Kind:
    """What is expected of one family.

    Attributes:
        name: of the family.
        title: how its messages begin to call it.
        make: writes a model of it into a folder.
        length: tokens that the pipeline is to read, as a model so small has no more.
        steps, guidance: that it draws with unless told.
        layers: some of those that adapters on attention and feed-forward are on.
        unguided: what its pipeline is called with to be asked for the prompt alone.
        settings: of the attacks.
        refused: beside `REFUSED`: attack, what is set, words of the sentence.
    """

    name: str
    title: str
    make: Callable[[Path], Path]
    length: int
    steps: int
    guidance: float
    layers: frozenset[str]
    unguided: tuple[tuple[str, Any], ...] = (("guidance_scale", 1.0),)
    settings: tuple[str, ...] = LORA
    refused: tuple[Refused, ...] = ()


KINDS = (
    Kind(
        "sd3",
        "Stable Diffusion 3.x",
        lambda folder: make_tiny_sd3(folder, t5=False),
        LONGEST_SEQUENCE,
        28,
        7.0,
        frozenset({"transformer_blocks.0.attn.add_k_proj", "transformer_blocks.1.ff.net.2"}),
    ),
    Kind(
        "flux",
        "FLUX.1",
        make_tiny_flux,
        SEQUENCE,
        28,
        3.5,
        frozenset(
            {
                "transformer_blocks.0.attn.to_q",
                "transformer_blocks.0.attn.to_add_out",
                "transformer_blocks.0.ff_context.net.2",
                "single_transformer_blocks.0.attn.to_v",
                "single_transformer_blocks.0.proj_out",
            }
        ),
        settings=(*LORA, "timesteps=uniform", "timestep_shift=3.0"),
        refused=(("lora", {"convolutions": True}, "lora.convolutions: "),),
    ),
    Kind(
        "flux2",
        "FLUX.2 [klein]",
        make_tiny_flux2,
        READ,
        50,
        4.0,
        frozenset(
            {
                "transformer_blocks.0.attn.to_q",
                "transformer_blocks.0.ff_context.linear_in",
                "single_transformer_blocks.0.attn.to_qkv_mlp_proj",
                "single_transformer_blocks.0.attn.to_out",
            }
        ),
        refused=CHAT,
    ),
    Kind(
        "z-image",
        "Z-Image",
        make_tiny_z_image,
        READ,
        50,
        5.0,
        frozenset(
            {
                "layers.1.attention.to_q",
                "layers.0.attention.to_out.0",
                "noise_refiner.0.feed_forward.w3",
                "context_refiner.0.attention.to_k",
            }
        ),
        unguided=(("guidance_scale", 0.0),),
        refused=CHAT,
    ),
    Kind(
        "qwen-image",
        "Qwen-Image",
        make_tiny_qwen_image,
        2 * READ,
        50,
        4.0,
        frozenset(
            {
                "transformer_blocks.0.attn.add_q_proj",
                "transformer_blocks.0.img_mlp.net.0.proj",
                "transformer_blocks.0.txt_mlp.net.2",
            }
        ),
        unguided=(),
        refused=CHAT,
    ),
)


@pytest.fixture(scope="module", autouse=True)
def small_pictures() -> Iterator[None]:
    """Qwen-Image's files do not say how large its pictures are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(QwenImage, "side", SIDE)
        yield


@pytest.fixture(scope="module")
def desks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Desk]:
    """Of every family: protected, attacked twice, evaluated and compared."""
    found = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind.name)
        desk = found[kind.name] = Desk(folder, kind.make(folder / "model"), kind.name)
        desk.all_four(("dreambooth", "lora"), kind.settings, steps=2)
    return found


@pytest.fixture(scope="module")
def drawn(desks: dict[str, Desk], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Drawn]:
    """What plain diffusers draws, and the house."""
    lengths = {desks[kind.name]: kind.length for kind in KINDS}
    return drawn_by_both(lengths, tmp_path_factory.mktemp("drawn"), PROMPT)


each = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


@each
def test_protection_trains_the_transformer_and_keeps_every_other_file(
    kind: Kind, desks: dict[str, Desk]
) -> None:
    desk = desks[kind.name]
    model = desk.runs / kind.name / "model"
    for file in desk.model.rglob("*"):
        place = file.relative_to(desk.model)
        if file.is_file() and place.parts[0] != "transformer":
            assert (model / place).read_bytes() == file.read_bytes(), place
    name = "transformer/diffusion_pytorch_model.safetensors"
    before, after = load_file(desk.model / name), load_file(model / name)
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[key], after[key]) for key in before)


@each
def test_both_attacks_are_judged_and_compared(kind: Kind, desks: dict[str, Desk]) -> None:
    desk = desks[kind.name]
    scores = desk.read("evaluation/scores.json")
    assert (scores["sampler"]["sampler"], scores["sampler"]["guidance"]) == ("euler", kind.guidance)
    rows = {(row["attack"], row["arm"]) for row in scores["rows"] if row["role"] == "attack"}
    arms = ("original", "protected")
    assert rows == {(attack, arm) for attack in ("dreambooth", "lora") for arm in arms}
    (run,) = desk.read("comparison.json")["runs"]
    lines = {line["attack"] for line in run["lines"] if line["role"] == "attack"}
    assert lines == {"dreambooth", "lora"}


@each
def test_it_draws_as_its_pipeline_does_unless_told(
    kind: Kind, desks: dict[str, Desk], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--metrics", "fid", "--device", "cpu", "--dry-run", "--json")
    desks[kind.name].run("evaluate", kind.name, *options)
    sampler = json.loads(capsys.readouterr().out)["sampler"]
    expected = {"sampler": "euler", "steps": kind.steps, "guidance": kind.guidance}
    assert {key: sampler[key] for key in expected} == expected


@each
def test_plain_diffusers_draws_the_same_from_all_that_was_written(
    kind: Kind, drawn: dict[str, Drawn]
) -> None:
    assert drawn[kind.name].keys() == {"protected", "dreambooth", "lora"}
    for name, (plain, ours, original) in drawn[kind.name].items():
        assert torch.allclose(plain, ours, atol=1e-4), name
        assert not torch.allclose(plain, original, atol=1e-3), f"{name} changes nothing"


@each
def test_feed_forward_adapters_are_in_the_file(kind: Kind, desks: dict[str, Desk]) -> None:
    runs = desks[kind.name].runs
    (file,) = runs.glob("*/attacks/lora-*/artifact/pytorch_lora_weights.safetensors")
    layers = {key.split(".lora_")[0].removeprefix("transformer.") for key in load_file(file)}
    assert kind.layers <= layers
    last = {"proj_out", "norm_out.linear", "all_final_layer.2-1.linear"}
    assert not last & layers, "that is the last layer"


@each
def test_what_it_cannot_take_it_says_in_a_line(
    kind: Kind, desks: dict[str, Desk], capsys: pytest.CaptureFixture[str]
) -> None:
    refused = (*REFUSED, *kind.refused)
    said = desks[kind.name].refusals(capsys, *((name, set_) for name, set_, _ in refused))
    for error, (_, _, words) in zip(said, refused, strict=True):
        assert words in error and kind.title in error and "\n" not in error


# Against diffusers


@each
def test_it_takes_photos_that_are_no_squares(kind: Kind, desks: dict[str, Desk]) -> None:
    """Of the widest and of the tallest shape."""
    model = load_model(str(desks[kind.name].model), CPU)
    step = model.family.shape_step(model.components)
    assert step is not None and model.resolution % step == 0
    *_, widest = buckets_for(model, step)
    assert widest[0] == 2 * model.resolution > 2 * widest[1]
    for width, height in (widest, widest[::-1]):
        pixels = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
        latents = model.encode_pixels(2 * pixels - 1).mean
        with torch.no_grad():
            found = model.denoiser.predict(latents, torch.tensor([500.0]), model.embed([PROMPT]))
        assert found.shape == latents.shape and bool(found.isfinite().all())


def steps_of_the_pipeline(
    kind: Kind, model: DiffusionModel, prompts: list[str]
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Of every step of diffusers' own drawing: noisy latents, timestep, and velocity."""
    pipe: Any = model.family.drawing_pipeline(model.components)  # type: ignore[attr-defined]
    found = []

    def unpacked(tensor: Tensor) -> Tensor:
        if tensor.dim() == 4:
            return tensor
        if kind.name == "flux2":
            return tensor.mT.reshape(-1, *model.latent_shape)
        spread: Tensor = pipe._unpack_latents(tensor, *model.latent_shape[1:], 1)
        return spread.reshape(-1, *model.latent_shape)

    step = pipe.scheduler.step

    def recorded(output: Tensor, timestep: Tensor, sample: Tensor, **options: Any) -> Any:
        found.append((unpacked(sample), timestep, unpacked(output)))
        return step(output, timestep, sample, **options)

    pipe.scheduler.step = recorded
    noise = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(1))
    pipe(
        prompt=prompts,
        height=model.resolution,
        width=model.resolution,
        num_inference_steps=3,
        max_sequence_length=kind.length,
        latents=packed(pipe, noise),
        output_type="latent",
        **dict(kind.unguided),
    )
    return found


@each
@torch.no_grad()
def test_the_prediction_is_what_a_step_of_the_pipeline_goes_along(
    kind: Kind, desks: dict[str, Desk]
) -> None:
    """Sign, time, packing, and prompts of unequal length beside each other."""
    model, prompts = load_model(str(desks[kind.name].model), CPU), [PROMPT, "a dog"]
    steps = steps_of_the_pipeline(kind, model, list(prompts))
    assert len(steps) == 3 and steps[0][1] > steps[2][1]
    for noisy, timestep, velocity in steps:
        found = model.denoiser.predict(noisy, timestep.expand(2), model.encode_text(prompts))
        assert torch.allclose(found, velocity, atol=1e-5)
        other = model.denoiser.predict(noisy, timestep.expand(2), model.encode_text(prompts[::-1]))
        assert not torch.allclose(other, velocity, atol=1e-5), "the prompt changes nothing"


# On a card


class MadeAt(TorchDispatchMode):
    """Notes on which devices tensors are made."""

    def __init__(self) -> None:
        super().__init__()
        self.devices: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.devices.update(one.device.type for one in tree_leaves(made) if torch.is_tensor(one))
        return made


@each
@torch.no_grad()
def test_what_is_recorded_neither_reads_from_a_card_nor_brings_anything_there(
    kind: Kind, tmp_path: Path
) -> None:
    """A device without numbers stands in for the card."""
    model = load_model(str(kind.make(tmp_path / "model")), CPU)
    asked = model.encode_text([PROMPT] * 2).to(torch.device("meta"))
    network = model.trained.to("meta")
    noisy, timesteps = torch.empty(2, *model.latent_shape, device="meta"), torch.empty(2).to("meta")

    def predict() -> set[str]:
        with MadeAt() as made:
            model.family.predict(network, noisy, timesteps, asked)
        return made.devices

    if model.family.recordable:
        assert predict() == {"meta"}
    else:
        with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
            predict()


@pytest.mark.parametrize("make", [make_tiny_flux, make_tiny_flux2])
@torch.no_grad()
def test_positions_are_the_pipelines_own(make: Callable[[Path], Path], tmp_path: Path) -> None:
    model, asked = load_model(str(make(tmp_path / "model")), CPU), {}
    model.trained.register_forward_pre_hook(
        lambda network, given, named: asked.update(named), with_kwargs=True
    )
    noisy = torch.zeros(2, model.latent_shape[0], 8, 6)
    condition, pipe = model.encode_text([PROMPT] * 2), model.pipeline
    model.family.predict(model.trained, noisy, torch.tensor([500.0, 500.0]), condition)
    if model.family.name == "flux":
        texts = pipe.encode_prompt([PROMPT] * 2, max_sequence_length=SEQUENCE)[2]
        pictures = pipe._prepare_latent_image_ids(2, 4, 3, CPU, torch.float32)
    else:
        texts = pipe._prepare_text_ids(condition["sequence"])
        pictures = pipe._prepare_latent_ids(noisy)
    for name, expected in (("txt_ids", texts), ("img_ids", pictures)):
        assert asked[name].dtype == expected.dtype and torch.equal(asked[name], expected)
