"""What `--memory low` does beside a card, with the CPU in the card's place."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from apdm_cli.personalization.streamed_adamw import StreamedAdamW
from apdm_cli.protection.bench import Bench
from apdm_cli.protection.copies import Placement
from apdm_cli.protection.low_memory import Waiting, main_memory_copy, rounded_copy
from apdm_cli.randomness import Streams
from apdm_cli.runs.jsonl import read_rows
from tests.protection import toys
from tests.protection.commands import Desk, forget_pipelines, run, same, stopped

BFLOAT = torch.bfloat16
PERSISTENT = (
    *("attackers.kind=persistent", "attackers.count=2", "attackers.ages=[1, 2]", "steps_inner=1"),
    *("margin.at_start=0.5", "margin.at_start_pairs=1", "preservation.evaluated_at=start"),
    *("path.max_grad_norm=1.0", "attackers.pool=[{attack='lora'},{attack='dreambooth'}]"),
)


@pytest.fixture(scope="module", autouse=True)
def _pipelines() -> Iterator[None]:
    yield
    forget_pipelines()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(tmp_path_factory.mktemp("beside"))


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> list[StreamedAdamW]:
    """The CPU takes the place of a card; returns every optimizer whose moments are streamed."""
    made: list[StreamedAdamW] = []
    original = StreamedAdamW.__init__

    def noted(self: StreamedAdamW, *arguments: Any) -> None:
        original(self, *arguments)
        made.append(self)

    monkeypatch.setattr(StreamedAdamW, "__init__", noted)
    begun = Bench.__post_init__

    def from_files(self: Bench) -> None:
        for weight in self.model.trained.parameters():
            weight.data = weight.data.clone()  # they lie in the mapped file of the model
        begun(self)

    monkeypatch.setattr(Bench, "__post_init__", from_files)
    monkeypatch.setattr(Placement, "beside_card", property(lambda self: self.low_memory))
    monkeypatch.setattr(Placement, "in_files", property(lambda self: False))
    return made


def options(*settings: str, dtype: str = "fp32") -> list[str]:
    sets = [part for setting in settings for part in ("--set", setting)]
    return ["--memory", "low", "--dtype", dtype, "--save", "unet-only", *sets]


@pytest.mark.parametrize(
    ("name", "dtype", "settings", "optimizers"),
    [
        ("paper", "bf16", ("steps_outer=1",), 2),
        ("persistent", "fp32", PERSISTENT, 4),
        ("adapter", "fp32", ("train=adapter", "adapter.rank=2", "steps_outer=1"), 2),
    ],
)
def test_it_changes_no_bit(
    name: str,
    dtype: str,
    settings: tuple[str, ...],
    optimizers: int,
    desk: Desk,
    streamed: list[StreamedAdamW],
) -> None:
    """Where things lie makes no difference, nor does rounding φ as autocast rounds it anyway."""
    how = options(*settings, dtype=dtype)
    assert desk.protect(name, *how) == 0
    assert len(streamed) >= optimizers
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Placement, "beside_card", property(lambda self: False))
        assert desk.protect(f"{name}-plain", *how) == 0
    assert same(desk.weights(name), desk.weights(f"{name}-plain"))
    rows = [read_rows(desk.runs / run / "metrics.jsonl") for run in (name, f"{name}-plain")]
    assert rows[0] == rows[1]


@pytest.mark.usefixtures("heeded_signals", "streamed")
def test_a_stopped_run_ends_like_an_uninterrupted_one(desk: Desk) -> None:
    how = options(*PERSISTENT)
    assert desk.protect("whole", *how) == 0
    with stopped():
        assert desk.protect("stopped", *how) == 143
    assert desk.protect("stopped", "--resume", *how) == 0
    assert same(desk.weights("whole"), desk.weights("stopped"))


def test_imma_puts_back_the_weights_themselves_and_not_rounded_ones(
    desk: Desk, streamed: list[StreamedAdamW]
) -> None:
    photos, *_ = desk.arguments("imma")[1:2]
    how = options("steps=1", "prior_pictures=4", "sampler_steps=2", dtype="bf16")
    where = ("--class", "dog", "--model", str(desk.model), "--out", str(desk.runs))
    method = ("--name", "imma", "--method", "imma", "--device", "cpu")
    assert run(["protect", photos, *where, *method, *how]) == 0
    assert len(streamed) == 2
    before = load_file(desk.model / "unet" / "diffusion_pytorch_model.safetensors")
    after = desk.weights("imma")
    equal = {name for name in before if torch.equal(before[name], after[name])}
    assert equal and equal != set(before)
    assert all("attn" in name for name in set(before) - equal)


def test_rounded_weights_compute_what_autocast_computes() -> None:
    network = toys.denoiser().network
    rounded = rounded_copy(network, BFLOAT)
    kinds = {type(layer).__name__ for layer in rounded.modules() if _dtypes(layer) == {BFLOAT}}
    assert kinds == {"Linear", "Conv2d"}
    noisy, timesteps = toys.random(2, toys.CHANNELS, toys.SIDE, toys.SIDE), torch.tensor([10, 900])
    condition = toys.condition(0, 2)
    answers = []
    for each in (network, rounded):
        with torch.no_grad(), torch.autocast("cpu", dtype=BFLOAT):
            answers.append(toys.FAMILY.predict(each, noisy, timesteps, condition))
    assert torch.equal(*answers)
    assert not any(weight.requires_grad for weight in rounded.parameters())
    assert {weight.dtype for weight in network.parameters()} == {torch.float32}


def _dtypes(layer: nn.Module) -> set[torch.dtype]:
    return {weight.dtype for weight in layer.parameters(recurse=False)}


def test_a_copy_in_main_memory_is_exact_and_apart() -> None:
    network = toys.denoiser().network
    kept = main_memory_copy(network)
    before = toys.weights(network)
    with torch.no_grad():
        for weight in network.parameters():
            weight.zero_()
    assert torch.equal(toys.weights(kept), before)
    assert not any(weight.requires_grad for weight in kept.parameters())


def test_weights_that_waited_are_back_with_those_who_share_them() -> None:
    layer = nn.Linear(30, 20)
    layer.load_state_dict({"weight": toys.random(20, 30), "bias": toys.random(20, seed=1)})
    tied = nn.Parameter(torch.empty(0), requires_grad=False)
    tied.data = layer.weight.data
    before = copy.deepcopy(layer.state_dict())
    waiting, weights = Waiting(), list(layer.parameters())
    for _ in range(2):
        with pytest.raises(KeyError), waiting.away(weights):
            assert [weight.untyped_storage().nbytes() for weight in weights] == [0, 0]
            layer.weight.grad = torch.ones(20, 30)
            raise KeyError  # an error is no reason to lose them
        assert same(dict(layer.state_dict()), before)
        assert torch.equal(tied, before["weight"])
        assert layer.weight.grad is not None and bool((layer.weight.grad == 1).all())


def test_only_what_an_attacker_trains_waits_and_its_gradients_go_first() -> None:
    seen: list[list[bool]] = []
    waiting = Waiting()

    def wait(weights: Any) -> Any:
        seen.append([weight.numel() > 0 for weight in weights])
        return waiting.away(weights)

    start, chosen = toys.denoiser(), toys.settings()
    attacker = toys.attacker(start, chosen, Streams(0))
    attacker._wait = wait
    before = toys.weights(start.network)
    with attacker.alone():
        for _ in attacker.steps(1):
            assert all(weight.grad is not None for weight in attacker.parameters)
        attacker.accumulate()
    assert len(seen) == 1 and len(seen[0]) == len(attacker.parameters)
    assert all(weight.grad is None for weight in attacker.parameters)
    assert torch.equal(toys.weights(start.network), before)
    assert toys.gradients(start.network).norm() > 0
