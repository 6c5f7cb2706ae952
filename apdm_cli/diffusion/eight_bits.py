"""A frozen network whose weights are held in 8 bits and made whole only while they are used.

The weight of output channel i is s_i q_i, with whole numbers q in [-127, 127] and a scale s in
float32: symmetric, weights only (arXiv 2004.09602, sections 3.1.2 and 3.2). Libraries do the same
for linear layers, but leave the whole weight in the graph for the backward pass, so that all layers
are whole at once and nothing is saved while something below them trains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.grad import conv2d_input

LARGEST = 127


def quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(q, s) of a weight (O, ...): int8 of its shape, and float32 (O, 1, ...).

    No weight is further than s / 2 from s q.
    """
    exact = weight.detach().float()
    largest = exact.abs().amax(dim=tuple(range(1, exact.ndim)), keepdim=True)
    scales = torch.where(largest > 0, largest / LARGEST, torch.ones_like(largest))
    return (exact / scales).round_().to(torch.int8), scales


class _EightBits(nn.Module):
    """A layer that had a `weight` and has `codes` and `scales` in its place. None of it trains."""

    codes: nn.Parameter
    scales: nn.Parameter
    bias: Any

    @property
    def weight(self) -> Tensor:
        """s q in float32, made anew: for who asks for shapes, or copies weights."""
        return self.codes.detach() * self.scales

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        exact = self.scales.data
        super()._apply(fn, recurse)
        self.scales.data = exact.to(self.codes.device)  # whatever precision the rest is given
        return self

    def forward(self, inputs: Tensor) -> Tensor:
        """What the layer with the weight s q answers, under autocast too."""
        kind = inputs.device.type
        lowered = torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if lowered else inputs.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        answer: Tensor = _Frozen.apply(inputs.to(dtype), self.codes, self.scales, bias, self)
        return answer

    def ask(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer's operation."""
        raise NotImplementedError

    def back(self, shape: torch.Size, weight: Tensor, gradient: Tensor) -> Tensor:
        """The gradient of its inputs, which have that shape."""
        raise NotImplementedError


class EightBitLinear(_EightBits, nn.Linear):  # type: ignore[override]
    """A linear layer in 8 bits."""

    def ask(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """W x + b."""
        return functional.linear(inputs, weight, bias)

    def back(self, shape: torch.Size, weight: Tensor, gradient: Tensor) -> Tensor:
        """Wᵀ g."""
        return gradient @ weight


class EightBitConv2d(_EightBits, nn.Conv2d):  # type: ignore[override]
    """A convolution in 8 bits."""

    def __new__(cls, *sizes: Any, **more: Any) -> Any:
        """A plain one, where sizes are given: peft makes adapters of the type below them."""
        return nn.Conv2d(*sizes, **more) if sizes or more else super().__new__(cls)

    def ask(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """W ∗ x + b."""
        return functional.conv2d(inputs, weight, bias, *self._where)

    def back(self, shape: torch.Size, weight: Tensor, gradient: Tensor) -> Tensor:
        """The transposed convolution of g."""
        return conv2d_input(shape, weight, gradient, *self._where)

    @property
    def _where(self) -> tuple[Any, ...]:
        return self.stride, self.padding, self.dilation, self.groups


class _Frozen(torch.autograd.Function):
    """The weight is made again for the backward pass, so that the graph holds 8 bits of it."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, layer: Any
    ) -> Tensor:
        ctx.save_for_backward(codes, scales)
        ctx.layer, ctx.shape = layer, inputs.shape
        answer: Tensor = layer.ask(inputs, (codes * scales).to(inputs.dtype), bias)
        return answer

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        codes, scales = ctx.saved_tensors
        weight = (codes * scales).to(gradients[0].dtype)
        return ctx.layer.back(ctx.shape, weight, gradients[0]), None, None, None, None


KINDS: dict[type[nn.Module], type[_EightBits]] = {
    nn.Linear: EightBitLinear,
    nn.Conv2d: EightBitConv2d,
}


def hold_in_eight_bits(network: nn.Module) -> None:
    """Turn the layers of `quantizable` into frozen ones in 8 bits, in place."""
    for _, layer in quantizable(network):
        codes, scales = quantized(layer.weight)
        del layer._parameters["weight"]
        layer.codes = nn.Parameter(codes, requires_grad=False)
        layer.scales = nn.Parameter(scales, requires_grad=False)
        layer.__class__ = KINDS[type(layer)]


def quantizable(network: nn.Module) -> Iterator[tuple[str, Any]]:
    """Linear layers and convolutions inside repeated blocks, by name.

    What leads into the blocks and out of them (the first and the last layer, the timestep's) is
    small and has the most to lose.
    """
    for name, layer in list(network.named_modules()):
        inside = any(part.isdigit() for part in name.split("."))
        plain = not isinstance(layer, nn.Conv2d) or (
            layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        )
        if inside and plain and type(layer) in KINDS:
            yield name, layer


def eight_bit_layers(network: nn.Module) -> dict[str, Any]:
    """The layers of `network` that are in 8 bits, by name."""
    found = network.named_modules()
    return {name: layer for name, layer in found if isinstance(layer, _EightBits)}


def bytes_in_eight_bits(network: nn.Module, dtype: torch.dtype) -> tuple[int, int]:
    """What `network` takes with its layers in 8 bits and the rest in `dtype`, whether it is so yet
    or not; and what its largest such layer takes while it is whole."""
    rows = {id(layer.weight): len(layer.weight) for _, layer in quantizable(network)}
    scales = {id(layer.scales) for layer in eight_bit_layers(network).values()}
    held, largest = 0, 0
    for weight in network.parameters():
        eight = weight.dtype == torch.int8 or id(weight) in rows
        if eight:
            held += weight.numel() + 4 * rows.get(id(weight), 0)
            largest = max(largest, weight.numel())
        else:
            held += weight.numel() * (4 if id(weight) in scales else dtype.itemsize)
    # The product in float32, and what it is lowered to.
    return held, largest * (4 + (0 if dtype == torch.float32 else dtype.itemsize))


def whole_weights(network: nn.Module) -> Iterator[Tensor]:
    """Every weight of `network` as it computes with it, one after another."""
    for module in network.modules():
        if isinstance(module, _EightBits):
            yield module.weight
            if module.bias is not None:
                yield module.bias
        else:
            yield from module.parameters(recurse=False)
