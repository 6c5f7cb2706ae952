"""What a forward and backward pass needs beside weights and gradients, without computing it."""

from __future__ import annotations

import copy
import weakref
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from apdm_cli.diffusion.apart import apart
from apdm_cli.diffusion.condition import Condition
from apdm_cli.diffusion.denoiser import Denoiser
from apdm_cli.diffusion.model import DiffusionModel


def activation_bytes(
    denoiser: Denoiser,
    condition: Condition,
    latent_shape: tuple[int, ...],
    samples: int,
    *,
    one_forward: bool,
) -> int:
    """Peak of what is alive at once in a loss on `samples` samples and its gradient.

    The passes run on tensors without content, so that this takes no memory and fits any machine.
    They run through a copy of the network: some keep tables of positions from pass to pass, and
    nothing of these passes may be left in it. Workspaces of libraries are not seen.

    Args:
        condition: a batch of one.
        latent_shape: (C, H, W).
        one_forward: all samples as one batch; otherwise one after the other, before one backward
            pass through all of them.
    """
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        memo = _on_cpu(denoiser.network)
        with FakeCopyMode(mode):
            network = copy.deepcopy(denoiser.network, memo)
        for weight in network.parameters():
            if weight.requires_grad:
                weight.grad = torch.zeros_like(weight)
        tensors = condition.tensors.items()
        imagined = Condition({name: mode.from_tensor(each) for name, each in tensors})
        copied = denoiser.with_network(network)
        with _Meter([*network.parameters(), *network.buffers()]) as meter:
            _ask(copied, latent_shape, imagined, [samples] if one_forward else [1] * samples)
    return meter.peak


def recorded_bytes(
    denoiser: Denoiser,
    condition: Condition,
    latent_shape: tuple[int, ...],
    samples: int,
    dtype: torch.dtype,
) -> int:
    """The same of passes that are recorded (`diffusion.recording`), in half precision.

    They run through a copy of the network in `dtype`, not under autocast: no weight is cast, no
    normalization is in float32, and all gradients of the copy are there at once.
    """

    def placed(each: Tensor) -> Tensor:
        lowered = each.is_floating_point() and each.dim() > 1
        return torch.empty_like(each, dtype=dtype if lowered else each.dtype, device="cpu")

    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        memo = _on_cpu(denoiser.network, dtype)
        with FakeCopyMode(mode):
            network = copy.deepcopy(denoiser.network, memo)
        rows = condition.expand(samples)
        held = Condition({name: placed(each) for name, each in rows.tensors.items()})
        noisy = torch.empty(samples, *latent_shape, dtype=dtype)
        timesteps = torch.zeros(samples, dtype=torch.int64)
        weights = list(network.requires_grad_(True).parameters())
        with _Meter([*network.parameters(), *network.buffers()]) as meter:
            answer = denoiser.launched.forward(network, noisy, timesteps, held)
            torch.autograd.grad(answer, weights, torch.zeros_like(answer), allow_unused=True)
    return meter.peak


def encoding_bytes(model: DiffusionModel, pictures: int) -> int:
    """The same of the autoencoder, for a gradient that reaches so many pictures through it."""
    others = (model.family.trained, *model.family.text_encoders)
    networks = {name: part for name, part in model.networks().items() if name not in others}
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        with FakeCopyMode(mode):
            copied = copy.deepcopy(networks)
        side = model.resolution
        pixels = torch.empty(pictures, 3, side, side, device=model.device, requires_grad=True)
        held = [each for part in copied.values() for each in (*part.parameters(), *part.buffers())]
        with _Meter(held) as meter:
            found = model.family.encode({**model.components, **copied}, pixels)
            (found.mean + found.std).sum().backward()
    return meter.peak


def _ask(
    denoiser: Denoiser, shape: tuple[int, ...], condition: Condition, batches: list[int]
) -> None:
    """Forward and backward."""
    device = next(denoiser.network.parameters()).device
    errors = []
    for count in batches:
        noisy = torch.empty(count, *shape, device=device)
        timesteps = torch.zeros(count, dtype=torch.int64, device=device)
        answer = apart(partial(denoiser.predict, noisy, timesteps), condition.expand(count))
        errors.append(answer.square().mean())
    torch.stack(errors).sum().backward()


def _on_cpu(network: nn.Module, dtype: torch.dtype | None = None) -> dict[int, Any]:
    """What stands for tensors of the meta device, where nothing runs under autocast, by id.

    Args:
        dtype: of everything that has a fraction; then every tensor has a stand-in.
    """
    stand_ins: dict[int, Any] = {}
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.is_meta or dtype is not None:
            lowered = dtype if tensor.is_floating_point() else None
            made = torch.empty_like(tensor, device="cpu", dtype=lowered, requires_grad=False)
            if isinstance(tensor, nn.Parameter):
                made = nn.Parameter(made, requires_grad=tensor.requires_grad)
            stand_ins[id(tensor)] = made
    return stand_ins


class _Meter(TorchDispatchMode):
    """Counts the bytes of every storage that an operation returns, while it lives."""

    def __init__(self, there: list[Tensor]) -> None:
        super().__init__()
        self.held = self.peak = 0
        self._known: set[int] = set()
        for tensor in there:
            for each in (tensor, tensor.grad):
                if each is not None:
                    self._known.add(id(each.untyped_storage()))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor):
                self._note(each.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        if id(storage) in self._known:
            return
        self._known.add(id(storage))
        self.held += storage.nbytes()
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._gone, id(storage), storage.nbytes())

    def _gone(self, which: int, size: int) -> None:
        self._known.discard(which)
        self.held -= size
