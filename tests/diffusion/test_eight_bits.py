"""Frozen layers in 8 bits: how far they are from the exact ones, and their gradients."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from apdm_cli.diffusion.eight_bits import (
    bytes_in_eight_bits,
    eight_bit_layers,
    hold_in_eight_bits,
    quantized,
    whole_weights,
)
from apdm_cli.diffusion.low_rank import LowRankDifference, off_eight_bits
from apdm_cli.randomness import Streams
from tests.protection import toys

LAYERS: dict[str, Any] = {
    "linear": (lambda: nn.Linear(12, 7), (5, 3, 12)),
    "without a bias": (lambda: nn.Linear(12, 7, bias=False), (5, 12)),
    "convolution": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 9, 9)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2, dilation=2), (2, 4, 9, 9)),
}


def pair(name: str) -> tuple[Any, Any, torch.Tensor]:
    """A layer in 8 bits, a plain one with the weight that it stands for, and inputs."""
    make, shape = LAYERS[name]
    blocks: Any = nn.Sequential(make())
    with torch.no_grad():
        for weight in blocks.parameters():
            weight.copy_(toys.random(*weight.shape, seed=1))
    plain = copy.deepcopy(blocks[0])
    hold_in_eight_bits(blocks)
    with torch.no_grad():
        plain.weight.copy_(blocks[0].weight)
    return blocks[0], plain, toys.random(*shape, seed=2)


@pytest.mark.parametrize("shape", [(7, 12), (6, 4, 3, 3)])
def test_no_weight_moves_by_more_than_half_a_step_of_its_channel(shape: tuple[int, ...]) -> None:
    """Channels of any size have steps of their own, one of zeros too."""
    weight = toys.random(*shape) * 10.0 ** torch.arange(-3, shape[0] - 3).view(
        -1, *[1] * (len(shape) - 1)
    )
    weight[0] = 0
    codes, scales = quantized(weight)
    assert codes.dtype == torch.int8 and scales.shape == (shape[0], *[1] * (len(shape) - 1))
    assert (codes.flatten(1).abs().amax(1)[1:] == 127).all(), "the whole range is used"
    error = (codes * scales - weight).abs().flatten(1).amax(1)
    assert (error <= scales.flatten() * 0.5001).all()
    assert (error[1:] > 0).all() and error[0] == 0


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("half", [False, True])
def test_answer_and_gradient_are_those_of_the_weight_that_it_stands_for(
    name: str, half: bool
) -> None:
    """Bit for bit, also under autocast, from inputs in float32."""
    held, plain, inputs = pair(name)
    found = []
    for layer in (held, plain):
        asked = inputs.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            answer = layer(asked)
        answer.float().square().sum().backward()
        assert asked.grad is not None
        found.append((answer.detach(), asked.grad))
    assert found[0][0].dtype == found[1][0].dtype == (torch.bfloat16 if half else torch.float32)
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert all(weight.grad is None for weight in held.parameters())


def test_the_graph_holds_eight_bits_of_a_weight() -> None:
    held, _, inputs = pair("linear")
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        held(inputs.requires_grad_())
    assert [tensor.dtype for tensor in kept] == [torch.int8, torch.float32]
    assert kept[1].numel() == 7


def test_scales_stay_exact_whatever_the_rest_is_given() -> None:
    held, plain, _ = pair("linear")
    nn.Module.to(held, torch.bfloat16)
    assert held.bias.dtype == torch.bfloat16
    assert torch.equal(held.weight, plain.weight)


def test_layers_of_the_blocks_are_held_so_and_no_others() -> None:
    network, whole = toys.denoiser().network, toys.denoiser().network
    expected = bytes_in_eight_bits(network, torch.bfloat16)
    weights = sum(weight.detach().norm() ** 2 for weight in whole.parameters())
    hold_in_eight_bits(network)
    held = eight_bit_layers(network)
    assert {"conv_in", "conv_out", "time_embedding.linear_1"}.isdisjoint(held)
    assert {"mid_block.resnets.0.conv1", "mid_block.attentions.0.proj_in"} <= held.keys()
    nn.Module.to(network, torch.bfloat16)
    there = sum(weight.numel() * weight.element_size() for weight in network.parameters())
    assert expected[0] == there == bytes_in_eight_bits(network, torch.bfloat16)[0]
    again = sum(weight.detach().float().norm() ** 2 for weight in whole_weights(network))
    assert float(again) == pytest.approx(float(weights), rel=1e-2)


def test_a_difference_that_undoes_the_rounding_is_no_difference_on_the_exact_weights() -> None:
    """And one that has nothing to do with the rounding is there whole, whatever its size."""
    exact: Any = toys.denoiser().network
    network: Any = toys.denoiser().network
    hold_in_eight_bits(network)
    made = LowRankDifference(network, ("conv1", "to_q"), 3, 6.0, Streams(0).generator("eight"))
    assert off_eight_bits(made, exact).kept == 1, "there is none yet"
    with torch.no_grad():
        for name, weights in made.state_dict().items():
            weights["up"].copy_(1e-2 * toys.random(*weights["up"].shape, seed=len(name)))
    independent = off_eight_bits(made, exact)
    assert independent.kept == pytest.approx(1, abs=0.05) and independent.dtype == "int8"
    with torch.no_grad():
        for name, weights in made.state_dict().items():
            layer = exact.get_submodule(name)
            moved = (layer.weight - network.get_submodule(name).weight).flatten(1)
            left, values, right = torch.linalg.svd(moved, full_matrices=False)
            weights["up"].copy_((left[:, :3] * values[:3] / made.scale).view(weights["up"].shape))
            weights["down"].copy_(right[:3].view(weights["down"].shape))
    undoing = off_eight_bits(made, exact)
    assert undoing.kept == pytest.approx(2, abs=0.01), "it is there twice"
    assert undoing.noise > 1
