"""θ = φ + a low-rank difference: weights that move without a copy of the network that they move."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from apdm_cli.diffusion.condition import Condition
from apdm_cli.diffusion.denoiser import Forward
from apdm_cli.diffusion.eight_bits import eight_bit_layers

Layer = nn.Linear | nn.Conv2d


@dataclass
class _Switch:
    """Whether the layers of one network add their part of the difference."""

    on: bool = True


@dataclass
class _Added:
    """Forward hook of a layer: W x becomes W x + s B A x.

    A hook and not a layer around the layer: names and modules of the network stay as they are, so
    that any attack can train, wrap or replace them as it does in a plain network.
    """

    down: nn.Parameter
    up: nn.Parameter
    scale: float
    switch: _Switch

    def __call__(self, layer: Layer, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if not self.switch.on:
            return None
        if isinstance(layer, nn.Conv2d):
            where: tuple[Any, ...] = layer.stride, layer.padding, layer.dilation
            inner = functional.conv2d(inputs[0], self.down, None, *where)
            return output + self.scale * functional.conv2d(inner, self.up)
        return output + self.scale * functional.linear(
            functional.linear(inputs[0], self.down), self.up
        )


@dataclass
class LowRankDifference:
    """θ − φ of the chosen layers of a network, each s B A (arXiv 2106.09685, eq. 3).

    The network's own weights are φ, frozen, in whatever precision they are held; A and B are in
    float32. Where `up` (B) is zero, as in the beginning, θ is φ bit for bit.

    Attributes:
        network: φ, which becomes θ in place: its layers add the difference from now on.
        targets: ends of the names of linear layers and convolutions.
        rank: r, the columns of B.
        alpha: s = alpha / r.
        generator: A is drawn from it, on the CPU, with variance 1 / (s² r): a first step of Adam
            then moves the weights as far as it moves those of a network that trains as a whole.
    """

    network: nn.Module
    targets: tuple[str, ...]
    rank: int
    alpha: float
    generator: torch.Generator
    _layers: dict[str, _Added] = field(default_factory=dict, init=False)
    _switch: _Switch = field(default_factory=_Switch, init=False)

    def __post_init__(self) -> None:
        self.network.requires_grad_(False)
        deviation = 1 / (self.scale * self.rank**0.5)
        for name, layer in adaptable_layers(self.network, self.targets).items():
            outputs, inputs, *kernel = layer.weight.shape
            down = torch.randn(self.rank, inputs, *kernel, generator=self.generator) * deviation
            up = torch.zeros(outputs, self.rank, *(1 for _ in kernel))
            device = layer.weight.device
            matrices = nn.Parameter(down.to(device)), nn.Parameter(up.to(device))
            self._layers[name] = _Added(*matrices, self.scale, self._switch)
            layer.register_forward_hook(self._layers[name])

    @property
    def scale(self) -> float:
        """s."""
        return self.alpha / self.rank

    @property
    def parameters(self) -> list[nn.Parameter]:
        """A and B of every layer, in the order of the network."""
        return [weight for added in self._layers.values() for weight in (added.down, added.up)]

    def detach(self) -> None:
        """Leave the network as it was: φ, frozen."""
        for name in self._layers:
            self.network.get_submodule(name)._forward_hooks.clear()

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """Inside, the network is φ."""
        self._switch.on = False
        try:
            yield
        finally:
            self._switch.on = True

    def without(self, forward: Forward) -> Forward:
        """`forward` of φ, through the same network."""

        def original(
            network: nn.Module, noisy: Tensor, timesteps: Tensor, condition: Condition
        ) -> Tensor:
            with self.off():
                return forward(network, noisy, timesteps, condition)

        return original

    def network_on_top(self) -> tuple[nn.Module, list[tuple[nn.Parameter, nn.Parameter]]]:
        """Another network at θ, whose weights lie in the memory of this one's.

        Returns:
            it, with frozen parameters of its own, and pairs (A or B of θ, its own).
        """
        frozen = [*self.network.parameters(), *self.parameters]
        own = {id(weight): nn.Parameter(weight.data, requires_grad=False) for weight in frozen}
        shared = {id(buffer): buffer for buffer in self.network.buffers()}
        pairs = [(weight, own[id(weight)]) for weight in self.parameters]
        return copy.deepcopy(self.network, {**own, **shared}), pairs

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """A ("down") and B ("up") of every layer."""
        return {
            name: {"down": added.down.detach(), "up": added.up.detach()}
            for name, added in self._layers.items()
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Go back to `state`."""
        for name, added in self._layers.items():
            added.down.copy_(state[name]["down"])
            added.up.copy_(state[name]["up"])

    @torch.no_grad()
    def norm(self) -> float:
        """‖θ − φ‖₂ over all layers, without the differences themselves: ‖BA‖² = ⟨BᵀB, AAᵀ⟩."""
        squares = []
        for added in self._layers.values():
            down, up = added.down.flatten(1), added.up.flatten(1)
            squares.append(((up.T @ up) * (down @ down.T)).sum().clamp(min=0))
        return self.scale * float(torch.stack(squares).sum().sqrt())

    @torch.no_grad()
    def of_layers(self) -> Iterator[tuple[str, Tensor]]:
        """(name of the layer, s B A in the shape of its weight, float32), one after another."""
        for name, added in self._layers.items():
            product = added.up.flatten(1) @ added.down.flatten(1)
            shape = (len(added.up), *added.down.shape[1:])
            yield name, self.scale * product.view(shape)

    def as_lora(self) -> nn.Module:
        """A network like φ with the difference as a LoRA of peft, which libraries can save."""
        from peft import LoraConfig, inject_adapter_in_model

        network, _ = self.network_on_top()
        layers = adaptable_layers(network, self.targets)
        for layer in layers.values():
            layer._forward_hooks.clear()
        config = LoraConfig(r=self.rank, lora_alpha=self.alpha, target_modules=list(self.targets))
        network = inject_adapter_in_model(config, network)
        with torch.no_grad():
            for name, added in self._layers.items():
                adapted = network.get_submodule(name)
                adapted.lora_A["default"].weight.data = added.down.detach()
                adapted.lora_B["default"].weight.data = added.up.detach()
        return network


def adaptable_layers(network: nn.Module, targets: Sequence[str]) -> dict[str, Layer]:
    """Linear layers and convolutions (in one group) whose names end like `targets`, by name."""
    ends = tuple(f".{target}" for target in targets)
    return {
        name: module
        for name, module in network.named_modules()
        if f".{name}".endswith(ends)
        and (
            isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
        )
    }


@dataclass(frozen=True)
class Rounding:
    """What becomes of a difference where weights below it are rounded.

    Attributes:
        dtype: to which they are: "float16".
        kept: ⟨D′, D⟩ / ‖D‖² of the difference D and of what is there of it, D′: 1 where nothing is
            lost, 0 where all weights are rounded back to where they were.
        noise: ‖D′ − D‖ / ‖D‖.
    """

    dtype: str
    kept: float
    noise: float


@torch.no_grad()
def merge(network: nn.Module, difference: LowRankDifference, dtype: torch.dtype) -> Rounding:
    """Add `difference` to another copy of φ, in place, and round the whole of it to `dtype`.

    Args:
        network: φ in float32, as exact as its files have it.
    """
    inner, lost, whole = 0.0, 0.0, 0.0
    for name, added in difference.of_layers():
        weight = network.get_submodule(name).get_parameter("weight")
        wanted = added.to(weight.device)
        rounded = (weight + wanted).to(dtype).float()
        found = rounded - weight
        inner += float((found * wanted).sum(dtype=torch.float64))
        lost += float((found - wanted).square().sum(dtype=torch.float64))
        whole += float(wanted.square().sum(dtype=torch.float64))
        weight.copy_(rounded)
    nn.Module.to(network, dtype)  # diffusers' own warns that layers may be kept in float32
    kept, noise = (inner / whole, (lost / whole) ** 0.5) if whole else (1.0, 0.0)
    return Rounding(str(dtype).removeprefix("torch."), kept, noise)


@torch.no_grad()
def off_eight_bits(difference: LowRankDifference, exact: nn.Module) -> Rounding:
    """What becomes of a difference that was trained on weights Q in 8 bits, on the exact ones W.

    From where it was trained, W + D is D′ = D + (W − Q) away. What it does to W is to first order
    what it did to Q, however large W − Q is; but the part of it that has learnt to undo the
    rounding, or to use it, is there twice or not at all.

    Args:
        exact: the network in float32 without the difference.
    """
    held = eight_bit_layers(difference.network)
    inner, lost, whole = 0.0, 0.0, 0.0

    def moved(name: str) -> Tensor:
        weight = exact.get_submodule(name).get_parameter("weight")
        return weight.to(held[name].codes.device) - held[name].weight

    for name, added in difference.of_layers():
        whole += float(added.square().sum(dtype=torch.float64))
        if name in held:
            inner += float((moved(name) * added).sum(dtype=torch.float64))
    for name in held:
        lost += float(moved(name).square().sum(dtype=torch.float64))
    kept, noise = (1 + inner / whole, (lost / whole) ** 0.5) if whole else (1.0, 0.0)
    return Rounding("int8", kept, noise)


@torch.no_grad()
def adapter_differences(network: nn.Module) -> dict[str, Tensor]:
    """What adapters on `network` add to the weights below: name as without adapters → difference.

    Of LoRA, DoRA, LoHa and LoKr, on weights in any precision, and on those of a difference. A
    LoRA's has the rank of the LoRA. The network stays as it is.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    found: dict[str, Tensor] = {}
    for name, layer in network.named_modules():
        if not isinstance(layer, BaseTunerLayer):
            continue
        below: Any = layer.get_base_layer()
        weight = below.weight.detach().double()  # whole, also where 8 or 16 bits of it are held
        for hook in below._forward_hooks.values():
            if isinstance(hook, _Added):
                product = hook.up.flatten(1) @ hook.down.flatten(1)
                weight = weight + hook.scale * product.view(weight.shape)
        merged = nn.Parameter(weight.clone(), requires_grad=False)
        for adapter in layer.active_adapters:
            variant = getattr(layer, "lora_variant", {}).get(adapter)
            if variant is None:
                merged.add_(layer.get_delta_weight(adapter))
            else:  # DoRA, whose norm is that of the whole weight
                variant.merge_unsafe(layer, adapter, merged)
        found[f"{plain_name(name)}.weight"] = (merged - weight).float()
    return found


def plain_name(name: str) -> str:
    """Name of a module or weight as the plain network has it, where adapters wrap its layers."""
    return name.replace(".base_layer", "")


def fuse_lora(network: nn.Module) -> None:
    """Add every LoRA on `network` to the weights below, in place, and take its layers out."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in list(network.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            above, _, last = name.rpartition(".")
            setattr(network.get_submodule(above), last, layer.get_base_layer())
    for note in ("peft_config", "_hf_peft_config_loaded"):
        if note in vars(network):
            delattr(network, note)
