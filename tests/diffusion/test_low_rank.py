"""θ as φ and a difference: what the network computes, what moves, and what rounding leaves."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from apdm_cli.diffusion.denoiser import Denoiser
from apdm_cli.diffusion.eight_bits import hold_in_eight_bits
from apdm_cli.diffusion.low_rank import (
    LowRankDifference,
    adaptable_layers,
    adapter_differences,
    fuse_lora,
    merge,
)
from apdm_cli.randomness import Streams
from tests.protection import toys

TARGETS = (
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "ff.net.0.proj",
    "ff.net.2",
    "conv1",
    "conv_shortcut",
)
RANK, ALPHA = 3, 6.0


def difference(network: nn.Module) -> LowRankDifference:
    generator = Streams(0).generator("difference")
    made = LowRankDifference(network, TARGETS, RANK, ALPHA, generator)
    with torch.no_grad():
        for weight in made.parameters[1::2]:
            weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    return made


def answer(denoiser: Denoiser) -> torch.Tensor:
    with torch.no_grad():
        (found,) = denoiser.predict_each([toys.draw(2, 5)], [toys.condition(0, 2)])
    return found


def test_switched_off_it_is_the_original_bit_for_bit() -> None:
    plain = toys.denoiser()
    expected = answer(plain)
    made = difference(plain.network)
    with_it = answer(plain)
    with made.off():
        assert torch.equal(answer(plain), expected)
    original = Denoiser(plain.network, plain.process, made.without(plain.forward))
    assert torch.equal(answer(original), expected)
    assert torch.equal(answer(plain), with_it)
    assert not torch.allclose(with_it, expected, atol=1e-3)
    made.detach()
    assert torch.equal(answer(plain), expected)


def test_in_the_beginning_it_changes_nothing() -> None:
    plain = toys.denoiser()
    expected = answer(plain)
    LowRankDifference(plain.network, TARGETS, RANK, ALPHA, Streams(0).generator("new"))
    assert torch.equal(answer(plain), expected)


def test_merged_it_is_the_weights_and_the_product() -> None:
    plain, other = toys.denoiser(), toys.denoiser()
    made = difference(plain.network)
    layers = adaptable_layers(plain.network, TARGETS)
    assert {type(layer) for layer in layers.values()} == {nn.Linear, nn.Conv2d}
    before = {name: weight.clone() for name, weight in other.network.state_dict().items()}
    found = merge(other.network, made, torch.float32)
    products = dict(made.of_layers())
    for name, weight in other.network.state_dict().items():
        layer = name.removesuffix(".weight")
        if layer not in products or name == layer:
            assert torch.equal(weight, before[name]), name
            continue
        pair = made.state_dict()[layer]
        product = ALPHA / RANK * torch.einsum("or...,r...->o...", pair["up"].flatten(1),
                                              pair["down"].flatten(1))  # fmt: skip
        assert torch.allclose(weight - before[name], product.view_as(weight), atol=1e-6), name
    assert torch.allclose(answer(other), answer(plain), atol=1e-5)
    assert found.kept == pytest.approx(1, abs=1e-3) and found.noise < 1e-3
    together = sum(product.square().sum() for product in products.values()) ** 0.5
    assert made.norm() == pytest.approx(float(together), rel=1e-4)


def test_as_a_lora_of_peft_it_computes_the_same() -> None:
    plain = toys.denoiser()
    made = difference(plain.network)
    lora = plain.with_network(made.as_lora())
    assert torch.allclose(answer(lora), answer(plain), atol=1e-6)
    untouched = copy.deepcopy(toys.denoiser().network.state_dict())
    assert all(torch.equal(plain.network.state_dict()[n], w) for n, w in untouched.items())
    apart = plain.with_network(copy.deepcopy(lora.network))
    fuse_lora(apart.network)
    assert apart.network.state_dict().keys() == untouched.keys()
    assert torch.allclose(answer(apart), answer(plain), atol=1e-5)


def test_a_network_on_top_shares_all_memory_and_follows() -> None:
    plain = toys.denoiser()
    made = difference(plain.network)
    network, pairs = made.network_on_top()
    below = {name: weight.data_ptr() for name, weight in plain.network.named_parameters()}
    assert {name: weight.data_ptr() for name, weight in network.named_parameters()} == below
    assert not any(weight.requires_grad for weight in network.parameters())
    assert [theirs for theirs, _ in pairs] == made.parameters
    top = plain.with_network(network)
    with torch.no_grad():
        made.parameters[1].add_(0.3)
    assert torch.equal(answer(top), answer(plain))
    with made.off():  # θ's network is φ for a moment; θ′ is not
        assert not torch.allclose(answer(top), answer(plain), atol=1e-3)


@pytest.mark.parametrize(
    ("size", "low", "high"), [(1.0, 0.99, 1.01), (1e-5, -0.01, 0.2)], ids=["large", "small"]
)
def test_what_rounding_keeps_is_measured(size: float, low: float, high: float) -> None:
    plain, files = toys.denoiser(), toys.denoiser()
    for network in (plain.network, files.network):
        network.bfloat16().float()
    made = difference(plain.network)
    with torch.no_grad():
        for weight in made.parameters[1::2]:
            weight.mul_(size)
    before = {name: weight.clone() for name, weight in files.network.state_dict().items()}
    found = merge(files.network, made, torch.bfloat16)
    assert found.dtype == "bfloat16" and low <= found.kept <= high
    inner = whole = lost = 0.0
    for name, wanted in made.of_layers():
        kept = files.network.state_dict()[f"{name}.weight"].float() - before[f"{name}.weight"]
        inner += float((kept * wanted).sum())
        whole += float(wanted.square().sum())
        lost += float((kept - wanted).square().sum())
    assert found.kept == pytest.approx(inner / whole, rel=1e-3, abs=1e-3)
    assert found.noise == pytest.approx((lost / whole) ** 0.5, rel=1e-3)


def test_a_first_step_of_adam_moves_it_as_far_as_all_weights() -> None:
    """So that learning rates mean the same for both."""
    plain = nn.ModuleDict({"to_q": nn.Linear(256, 256, bias=False)})
    made = LowRankDifference(plain, ("to_q",), 32, 8.0, Streams(0).generator("new"))
    optimizer = torch.optim.AdamW(made.parameters, lr=1e-3, weight_decay=0.0)
    plain["to_q"](
        torch.randn(64, 256, generator=Streams(0).generator("x"))
    ).square().sum().backward()
    optimizer.step()
    ((_, moved),) = made.of_layers()
    assert 0.5e-3 < float(moved.square().mean().sqrt()) < 2e-3


def adapt(network: nn.Module, **more: bool) -> None:
    """Put a LoRA that has learnt something on a part of `network`."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=2, lora_alpha=4, target_modules=["to_q", "conv1"], **more)
    inject_adapter_in_model(config, network)
    with torch.no_grad():
        for number, (name, weight) in enumerate(network.named_parameters()):
            if "lora_B" in name:
                weight.copy_(0.01 * toys.random(*weight.shape, seed=number))


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("below", ["weights", "a difference"])
def test_what_adapters_add_makes_a_plain_network_answer_like_the_adapted(
    below: str, dora: bool
) -> None:
    plain = toys.denoiser()
    if below != "weights":
        difference(plain.network)
    before, adapted = copy.deepcopy(plain), copy.deepcopy(plain)
    adapt(adapted.network, use_dora=dora)
    moved = adapter_differences(adapted.network)
    weights = dict(before.network.named_parameters())
    with torch.no_grad():
        for name, added in moved.items():
            weights[name].add_(added)
    effect = (answer(adapted) - answer(plain)).abs().max()
    assert effect > 1e-4
    assert (answer(before) - answer(adapted)).abs().max() < 1e-3 * effect


@pytest.mark.parametrize("held", ["int8", "bfloat16"])
def test_what_adapters_add_is_exact_on_weights_that_are_held_in_fewer_bits(held: str) -> None:
    network = toys.denoiser().network.requires_grad_(False)
    if held == "int8":
        hold_in_eight_bits(network)
    else:
        nn.Module.to(network, torch.bfloat16)
    adapt(network)
    moved = adapter_differences(network)
    assert any("conv1" in name for name in moved) and any("to_q" in name for name in moved)
    for name, added in moved.items():
        layer = network.get_submodule(name.removesuffix(".weight"))
        up, down = (getattr(layer, part)["default"].weight for part in ("lora_B", "lora_A"))
        wanted = 2 * (up.flatten(1).float() @ down.flatten(1).float())
        torch.testing.assert_close(added.flatten(1), wanted, rtol=1e-2, atol=1e-5)
