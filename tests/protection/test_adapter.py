"""Protection as an adapter, through the command: what is saved, resumed, attacked and refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from apdm_cli.diffusion.family import Components
from apdm_cli.errors import ApdmError, UsageError
from apdm_cli.extension.family import load_model
from apdm_cli.extension.manager import attacks, build_plugin_manager
from apdm_cli.extension.protection import Inputs, Kind
from apdm_cli.extension.protection_config import LowRank
from apdm_cli.protection.bench import Bench
from apdm_cli.protection.ingredients import stand_ins
from apdm_cli.randomness import Streams
from apdm_cli.runs.checkpoints import latest
from apdm_cli.runs.jsonl import read_rows
from apdm_cli.subject import Subject
from apdm_cli.testing import synthetic_photos
from apdm_families.stable_diffusion import StableDiffusion
from tests.metrics.material import make_vit
from tests.protection.commands import Desk, forget_pipelines, pipeline, run, same, stopped

pytestmark = pytest.mark.usefixtures("heeded_signals")

ADAPTER = ("--set", "train=adapter", "--set", "adapter.rank=2", "--set", "adapter.alpha=4")
EIGHT_BITS = (
    *ADAPTER,
    *("--set", "adapter.base=int8", "--set", "path.attack=lora", "--set", "path.settings.rank=2"),
    *("--set", "steps_outer=3", "--set", "steps_inner=1"),
)
ATTACK = ("steps=2", "prior_pictures=2", "sampler_steps=2", "lora.rank=2")
LORA_FILE = "pytorch_lora_weights.safetensors"
UNET_FILE = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module", autouse=True)
def _pipelines() -> Iterator[None]:
    yield
    forget_pipelines()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """One protection, saved merged (`merged`) and as the difference alone (`alone`)."""
    made = Desk(tmp_path_factory.mktemp("desk"))
    assert made.protect("merged", *ADAPTER) == 0
    assert made.protect("alone", *ADAPTER, "--save", "adapter") == 0
    return made


def manifest(desk: Desk, name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((desk.runs / name / "manifest.json").read_text())
    return loaded


def original(desk: Desk) -> dict[str, torch.Tensor]:
    return load_file(desk.model / "unet" / UNET_FILE)


def test_the_merged_model_is_the_original_and_a_product_of_low_rank(desk: Desk) -> None:
    before, after = original(desk), desk.weights("merged")
    lora = load_file(desk.runs / "alone" / "model" / LORA_FILE)
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    layers = {key.split(".lora")[0].removeprefix("unet.") for key in lora}
    assert moved and moved == {f"{layer}.weight" for layer in layers}
    for name in moved:
        difference = (after[name] - before[name]).flatten(1)
        layer = name.removesuffix(".weight")
        keys = sorted(key for key in lora if key.startswith(f"unet.{layer}.lora"))
        down, up = (lora[key].flatten(1) for key in keys)  # or A and B: both are read
        assert torch.allclose(difference, 4 / 2 * up @ down, atol=1e-6), name
        assert torch.linalg.matrix_rank(difference, atol=1e-5) <= 2
    rounding = manifest(desk, "merged")["rounding"]
    assert rounding["dtype"] == "float32" and rounding["kept"] == pytest.approx(1, abs=1e-3)


def test_plain_diffusers_makes_the_merged_model_of_the_adapter(desk: Desk) -> None:
    folder = desk.runs / "alone" / "model"
    assert {path.name for path in folder.iterdir()} == {LORA_FILE, "base.json"}
    size = (folder / LORA_FILE).stat().st_size
    assert size < 0.2 * (desk.runs / "merged" / "model" / "unet" / UNET_FILE).stat().st_size
    pipe = StableDiffusionPipeline.from_pretrained(desk.model)
    pipe.load_lora_weights(folder)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    fused = pipe.unet.state_dict()
    assert all(torch.allclose(fused[n], w, atol=1e-6) for n, w in desk.weights("merged").items())


def test_the_adapter_alone_is_opened_with_its_base(desk: Desk) -> None:
    model = load_model(str(desk.runs / "alone" / "model"), torch.device("cpu"))
    state = model.trained.state_dict()
    for name, weight in desk.weights("merged").items():
        assert torch.allclose(state[name], weight, atol=1e-6), name


def test_a_run_of_the_adapter_alone_is_attacked_evaluated_and_compared(desk: Desk) -> None:
    """A merged one is a folder like any other, which is attacked by other tests."""
    common, settings = ("--device", "cpu", "--out", str(desk.runs)), ATTACK
    sets = [part for setting in settings for part in ("--set", setting)]
    assert run(["attack", "alone", "--plugin", "lora", *sets, *common]) == 0
    drawing = ("--images", "2", "--class-images", "2", "--sampler", "ddim", "--steps", "2")
    weights = ("--metrics", "dino", "--weights", f"pocket-vit={make_vit(desk.folder / 'vit')}")
    assert run(["evaluate", "alone", *drawing, *weights, *common]) == 0
    assert run(["compare", "alone", "--out", str(desk.runs)]) == 0
    (compared,) = json.loads((desk.runs / "alone/comparison.json").read_text())["runs"]
    lines = [line for line in compared["lines"] if line["role"] == "attack"]
    assert {line["attack"] for line in lines} == {"lora"}


def test_a_stopped_run_ends_like_an_uninterrupted_one(desk: Desk) -> None:
    with stopped():
        assert desk.protect("stopped", *ADAPTER) == 143
    checkpoint, _ = latest(desk.runs / "stopped" / "checkpoints")
    assert checkpoint is not None
    assert set(checkpoint.load()["weights"]) == {
        key.split(".lora")[0].removeprefix("unet.")
        for key in load_file(desk.runs / "alone" / "model" / LORA_FILE)
    }, "the frozen network is no part of a checkpoint"
    assert desk.protect("stopped", *ADAPTER, "--resume") == 0
    assert same(desk.weights("merged"), desk.weights("stopped"))
    rows = read_rows(desk.runs / "stopped" / "metrics.jsonl")
    assert rows == read_rows(desk.runs / "merged" / "metrics.jsonl")


def test_runs_of_all_weights_are_described_as_before(desk: Desk) -> None:
    """So that one that an earlier version began can go on."""
    assert desk.protect("full") == 0
    assert not {"train", "adapter"} & manifest(desk, "full")["configuration"].keys()
    adapter = manifest(desk, "merged")["configuration"]["adapter"]
    assert adapter["rank"] == 2 and "base" not in adapter
    assert not same(desk.weights("full"), desk.weights("merged"))


# A base in 8 bits


@pytest.fixture(scope="module")
def in_eight_bits(desk: Desk) -> Desk:
    """A protection on such a base, in bf16 otherwise (`eight`)."""
    assert desk.protect("eight", *EIGHT_BITS, "--dtype", "bf16") == 0
    return desk


def test_a_difference_on_eight_bits_is_merged_with_the_weights_of_the_files(
    in_eight_bits: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same run saved alone is the difference, and fused on the original what was merged."""
    desk = in_eight_bits
    more = ("--dtype", "bf16", "--save", "adapter")
    assert desk.protect("eight-alone", *EIGHT_BITS, *more) == 0
    assert "trained on weights in 8 bits" in " ".join(capsys.readouterr().err.split())
    pipe = StableDiffusionPipeline.from_pretrained(desk.model)
    pipe.load_lora_weights(desk.runs / "eight-alone" / "model")
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    plain = StableDiffusionPipeline.from_pretrained(desk.runs / "eight" / "model").unet.state_dict()
    fused, before = pipe.unet.state_dict(), original(desk)
    assert plain.keys() == before.keys()
    assert all(torch.allclose(fused[n], w, atol=1e-6) for n, w in plain.items())
    assert any(not torch.equal(before[n], w) for n, w in plain.items())
    untouched = [n for n in before if ".norm" in n or "conv_in" in n]
    assert all(torch.equal(before[n], plain[n]) for n in untouched)
    found = manifest(desk, "eight")["eight_bits"]
    assert found["kept"] == pytest.approx(1, abs=0.05) and 0 < found["noise"] < 10
    assert manifest(desk, "eight-alone")["eight_bits"] == found
    assert "eight_bits" not in manifest(desk, "merged")
    assert manifest(desk, "eight")["configuration"]["adapter"]["base"] == "int8"


def test_a_stopped_run_on_eight_bits_ends_like_an_uninterrupted_one(
    in_eight_bits: Desk,
) -> None:
    desk, more = in_eight_bits, (*EIGHT_BITS, "--dtype", "bf16")
    with stopped():
        assert desk.protect("eight-stopped", *more) == 143
    assert desk.protect("eight-stopped", *more, "--resume") == 0
    assert same(desk.weights("eight"), desk.weights("eight-stopped"))
    logs = [read_rows(desk.runs / n / "metrics.jsonl") for n in ("eight", "eight-stopped")]
    assert logs[0] == logs[1]


def test_a_difference_that_is_less_than_the_rounding_below_it_is_not_saved(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ("--set", "learning_rate=1e-12", "--set", "steps_outer=1", "--save", "adapter")
    assert desk.protect("too-small", *EIGHT_BITS, *small) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "weights in 8 bits" in said and "without --set adapter.base=int8" in said
    assert "--resume" not in said, "it would be refused again"
    assert not (desk.runs / "too-small" / "model").exists()


class Hollow(StableDiffusion):
    """Trains a network that has no blocks."""

    trained = "projection"

    def open(self, folder: Path) -> Components:
        return {**super().open(folder), "projection": torch.nn.Linear(2, 2)}


def test_a_family_without_numbered_blocks_is_refused(tmp_path: Path) -> None:
    model, known = str(pipeline(tmp_path / "model")), {"stable-diffusion": Hollow()}
    with pytest.raises(ApdmError, match="no linear layers or convolutions in numbered blocks"):
        load_model(model, torch.device("cpu"), known=known, frozen=True, eight_bits=True)


# Models whose files have few bits


def stored(desk: Desk, folder: Path, dtype: torch.dtype) -> None:
    """Let the desk's model be one whose U-Net is kept in `dtype`."""
    file = desk.model / "unet" / UNET_FILE
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize("held", ["fp32", "bf16"])
def test_the_saved_model_has_the_precision_of_the_files(
    held: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In which precision the frozen network was held does not matter: it is read again."""
    desk = Desk(tmp_path)
    stored(desk, tmp_path, torch.float16)
    assert desk.protect("run", *ADAPTER, "--dtype", held) == 0
    assert "which are in float16: rounding keeps" in capsys.readouterr().err
    assert desk.protect("alone", *ADAPTER, "--dtype", held, "--save", "adapter") == 0
    found = manifest(desk, "run")["rounding"]
    assert found["dtype"] == "float16" and 0.95 < found["kept"] < 1.05
    before, after = original(desk), desk.weights("run")
    assert all(weight.dtype == torch.float16 for weight in after.values())
    exact = load_model(str(desk.runs / "alone" / "model"), torch.device("cpu"))
    for name, weight in exact.trained.state_dict().items():
        assert torch.allclose(after[name].float(), weight, rtol=1e-3, atol=1e-6), name
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_difference_that_rounding_would_eat_is_not_saved_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = Desk(tmp_path)
    stored(desk, tmp_path, torch.bfloat16)
    small = ("--set", "learning_rate=1e-7")
    assert desk.protect("run", *ADAPTER, *small) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "the files of the model are in bfloat16" in said and "--save adapter" in said
    assert not (desk.runs / "run" / "model").exists()
    assert desk.protect("run", *ADAPTER, *small, "--resume", "--save", "adapter") == 0
    assert desk.protect("at-once", *ADAPTER, *small, "--save", "adapter") == 0
    kept, at_once = (load_file(desk.runs / n / "model" / LORA_FILE) for n in ("run", "at-once"))
    assert same(kept, at_once)


def test_a_single_file_is_merged_as_well(tmp_path: Path) -> None:
    from tests.diffusion.original_layout import original_layout

    desk = Desk(tmp_path)
    file = tmp_path / "one.safetensors"
    layout = original_layout(StableDiffusionPipeline.from_pretrained(desk.model))
    save_file({name: tensor.half() for name, tensor in layout.items()}, file)
    shutil.copytree(
        desk.model, file.with_suffix(""), ignore=shutil.ignore_patterns("*.safetensors")
    )
    desk.model = file
    assert desk.protect("run", *ADAPTER) == 0
    assert all(weight.dtype == torch.float16 for weight in desk.weights("run").values())
    pipe = StableDiffusionPipeline.from_pretrained(desk.runs / "run" / "model")
    again = pipe.unet.state_dict()
    assert all(torch.equal(again[n], w.float()) for n, w in desk.weights("run").items())


# What is asked for


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--save", "adapter"), "--save adapter: all weights of the model are trained"),
        (
            (*ADAPTER, "--set", "include_personalization_gradient=true"),
            "include_personalization_gradient is for train = full only",
        ),
        (("--set", "train=adaptor"), "train"),
        (("--set", "adapter.base=int8"), "adapter.base = int8 is for train = adapter only"),
        (
            (*ADAPTER, "--set", "adapter.base=int8"),
            "adapter.base = int8: the simulated attacker dreambooth trains the network's own",
        ),
        (
            (
                *EIGHT_BITS,
                "--set",
                "attackers.kind=persistent",
                "--set",
                'attackers.pool=[{attack = "lora"}, {attack = "dreambooth-text"}]',
            ),
            "the simulated attacker dreambooth-text trains",
        ),
        ((*ADAPTER, "--set", "adapter.targets=convs"), "adapter.targets"),
    ],
)
def test_what_does_not_go_together_is_refused(
    arguments: tuple[str, ...], words: str, desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    assert desk.protect("refused", *arguments) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not (desk.runs / "refused").exists()


@pytest.mark.parametrize("targets", ["attention", "linear", "all"])
def test_targets_say_which_layers_move(targets: str, desk: Desk) -> None:
    name = f"targets-{targets}"
    assert desk.protect(name, *ADAPTER, "--set", f"adapter.targets={targets}") == 0
    before, after = original(desk), desk.weights(name)
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    attention = {key for key in moved if ".attn" in key}
    linear = {key for key in moved if ".ff." in key}
    convolutions = {key for key in moved if ".resnets." in key}
    assert attention and bool(linear) == (targets != "attention")
    assert bool(convolutions) == (targets == "all")
    assert moved == attention | linear | convolutions


# Inside the loop


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A bench with a difference that is not zero."""
    model = load_model(
        str(pipeline(tmp_path / "model")), torch.device("cpu"), torch.float32, frozen=True
    )
    subject = Subject("dog", "dog", "sks", synthetic_photos(model.resolution))
    inputs = Inputs(class_pictures=3)
    made = Bench(
        model,
        subject,
        inputs,
        stand_ins(model, subject, inputs),
        Streams(0),
        attacks(build_plugin_manager()),
        adapter=LowRank(rank=2, alpha=2),
    )
    with torch.no_grad():
        for weight in made.weights:
            weight.add_(0.05 * torch.randn(weight.shape, generator=Streams(1).generator("b")))
    return made


def kind(bench: Bench, name: str, **settings: Any) -> Kind:
    attack = bench.attacks[name]
    return Kind(attack, attack.configure("", ({"steps": 3, **settings},), bench.attacks))


@pytest.mark.parametrize("name", ["dreambooth", "lora"])
def test_gradients_at_an_attacker_are_those_of_the_difference(name: str, bench: Bench) -> None:
    """g = ∂L(φ + s B A + δ) / ∂(A, B), with δ the attacker's, and nothing else moves."""
    frozen = {n: w.clone() for n, w in bench.model.trained.state_dict().items()}
    attacker = bench.attacker(kind(bench, name, learning_rate=1e-3), bench.photos, "one")
    for _ in attacker.steps(2):
        assert all(weight.grad is None for weight in bench.weights)
    draw = bench.source(bench.photos, "test").draw(2)
    condition = bench.personal.expand(2)

    def loss() -> torch.Tensor:
        (error,) = attacker.denoiser.squared_errors([draw], [condition])
        return error.mean()

    attacker.optimizer.zero_grad()
    with attacker.open_to_gradients():
        loss().backward()
    attacker.accumulate()
    # The same by moving one number: the attacker's network follows θ.
    pairs = [(weight, weight.grad) for weight in bench.weights if weight.grad is not None]
    assert len(pairs) == len(bench.weights)
    steepest = sorted(pairs, key=lambda pair: -float(pair[1].abs().max()))
    for weight, gradient in (*steepest[:2], next(pair for pair in steepest if len(pair[0]) == 2)):
        largest = int(gradient.abs().argmax())
        step, values = 1e-2, []
        with torch.no_grad():
            for sign in (1, -1):
                weight.view(-1)[largest] += sign * step
                values.append(loss().item())
                weight.view(-1)[largest] -= sign * step
        slope = (values[0] - values[1]) / (2 * step)
        assert slope == pytest.approx(float(gradient.view(-1)[largest]), rel=0.05)
    assert same(frozen, dict(bench.model.trained.state_dict()))
    assert all(w.grad is None for w in bench.model.trained.parameters())


def test_a_simulated_attacker_trains_the_text_encoder_at_its_own_rate(bench: Bench) -> None:
    """AdamW's first step is as long as its rate, whatever the gradient."""
    rates = {"learning_rate": 0.05, "text_learning_rate": 0.01, "weight_decay": 0.0}
    lora = kind(bench, "lora", rank=2, text_encoder=True, **rates)
    attacker = bench.attacker(lora, bench.photos, "one")
    network = {id(weight) for weight in attacker.denoiser.network.parameters()}
    before = [weight.detach().clone() for weight in attacker.parameters]
    for _ in attacker.steps(1):
        pass
    moved: dict[bool, float] = {True: 0.0, False: 0.0}
    for weight, old in zip(attacker.parameters, before, strict=True):
        part = id(weight) in network
        moved[part] = max(moved[part], (weight - old).abs().max().item())
    assert moved == pytest.approx({True: 0.05, False: 0.01}, rel=1e-2)


def test_memory_is_counted_with_the_network_held_once(bench: Bench) -> None:
    network = sum(weight.numel() for weight in bench.model.trained.parameters())
    share = sum(weight.numel() for weight in bench.weights) / network
    assert bench.reference_copies == 0
    assert bench.trained_copies() == pytest.approx(1 + 4 * share)
    bench.model.trained.bfloat16()
    assert bench.trained_copies("adamw8bit") == pytest.approx(0.5 + 2.5 * share)
    assert bench.trained_share(kind(bench, "dreambooth")) == 1
    assert bench.trained_share(kind(bench, "lora", rank=2)) < 0.2


def test_attacks_say_whether_they_leave_the_network_as_it_is(bench: Bench) -> None:
    """Of those that do, nothing that trains is a weight of the network that they were given."""
    for name, attack in bench.attacks.items():
        if not attack.trains_once:
            continue
        model = bench.model.private_copy()
        network = {id(weight) for weight in model.trained.parameters()}
        settings = {"rank": 2} if "rank" in attack.Config.model_fields else {}
        made = attack.trainable(model, bench.subject, kind(bench, name, **settings).config)
        trained = network & {id(weight) for weight in made.parameters()}
        assert attack.leaves_network == (not trained), name


def test_attacks_say_whether_what_they_learn_is_a_displacement(bench: Bench) -> None:
    """Only of those that do can an attacker on θ be kept."""
    for name, attack in bench.attacks.items():
        if not attack.trains_once:
            continue
        settings = {"rank": 2} if "rank" in attack.Config.model_fields else {}
        attacker = bench.attacker(kind(bench, name, **settings), bench.photos, name)
        assert attack.leaves_displacement == bool(attacker.displacement), name


@pytest.mark.parametrize("variant", ["lora", "dora", "lokr"])
def test_attackers_train_on_a_network_in_eight_bits(variant: str, tmp_path: Path) -> None:
    """They share its weights; gradients reach the difference through theirs."""
    model = load_model(
        str(pipeline(tmp_path / "model")), torch.device("cpu"), torch.bfloat16,
        frozen=True, eight_bits=True,
    )  # fmt: skip
    subject = Subject("dog", "dog", "sks", synthetic_photos(model.resolution))
    known, inputs = attacks(build_plugin_manager()), Inputs(class_pictures=3)
    ingredients = stand_ins(model, subject, inputs)
    adapter = LowRank(rank=2, base="int8")
    bench = Bench(model, subject, inputs, ingredients, Streams(0), known, adapter=adapter)
    settings = {"rank": 2, "variant": variant, "convolutions": variant == "lora"}
    attacker = bench.attacker(kind(bench, "lora", **settings), bench.photos, "one")
    assert len(list(attacker.steps(2))) == 2
    codes = {w.data_ptr() for w in model.trained.parameters() if w.dtype == torch.int8}
    theirs = [w for w in attacker.denoiser.network.parameters() if w.dtype == torch.int8]
    assert len(theirs) == len(codes) and {w.data_ptr() for w in theirs} == codes
    draw = bench.source(bench.photos, "test").draw(1)
    with attacker.open_to_gradients():
        (error,) = attacker.denoiser.squared_errors([draw], [bench.personal])
        error.mean().backward()
    attacker.accumulate()
    ups = bench.weights[1::2]  # B, which is zero yet: A has no gradient
    assert all(up.grad is not None and up.grad.any() for up in ups)
    with pytest.raises(UsageError, match="trains the network's own weights"):
        bench.attacker(kind(bench, "dreambooth"), bench.photos, "heavy")


def test_an_attacker_of_adapters_has_no_copy_of_the_network(bench: Bench) -> None:
    below = {weight.data_ptr() for weight in bench.model.trained.parameters()}
    light = bench.attacker(kind(bench, "lora", rank=2), bench.photos, "light")
    own = [w for w in light.denoiser.network.parameters() if w.data_ptr() not in below]
    assert sorted(map(id, own)) == sorted(map(id, light.parameters))
    heavy = bench.attacker(kind(bench, "dreambooth"), bench.photos, "heavy")
    assert not below & {weight.data_ptr() for weight in heavy.parameters}


def test_a_frozen_network_in_half_precision_has_attackers_in_float32(tmp_path: Path) -> None:
    model = load_model(
        str(pipeline(tmp_path / "model")), torch.device("cpu"), torch.bfloat16, frozen=True
    )
    assert {weight.dtype for weight in model.trained.parameters()} == {torch.bfloat16}
    subject = Subject("dog", "dog", "sks", synthetic_photos(model.resolution))
    known, inputs = attacks(build_plugin_manager()), Inputs(class_pictures=3)
    ingredients = stand_ins(model, subject, inputs)
    bench = Bench(model, subject, inputs, ingredients, Streams(0), known, adapter=LowRank(rank=2))
    for name in ("dreambooth", "lora", "custom-diffusion", "textual-inversion"):
        attacker = bench.attacker(kind(bench, name), bench.photos, name)
        assert {weight.dtype for weight in attacker.parameters} == {torch.float32}, name
        assert len(list(attacker.steps(1))) == 1
