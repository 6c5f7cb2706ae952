"""Where weights and moments lie when memory is short.

With the CPU in memory-mapped files, which the system may write out; with a card in main memory.
"""

from __future__ import annotations

import contextlib
import copy
import os
import tempfile
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from apdm_cli.errors import ApdmError
from apdm_cli.personalization.optimizers import MakeOptimizer

SMALLEST = 1 << 16  # elements; below that a file of its own costs more than it frees


def mapped_zeros(like: Tensor) -> Tensor:
    """Zeros of the shape and dtype of a CPU tensor, in a temporary file mapped into memory.

    The system may write it out whenever memory is short, without any swap space. The file goes
    when the tensor does, also with a process that is killed. Small tensors stay in memory.

    Raises:
        ApdmError: no room in the folder for temporary files.
    """
    if like.numel() < SMALLEST:
        return torch.zeros_like(like, requires_grad=False)
    handle, name = tempfile.mkstemp(prefix="apdm-")
    try:
        # Room is reserved first: a write into a mapped hole of a full disk kills the process.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(handle, 0, like.numel() * like.element_size())
        flat = torch.from_file(name, shared=True, size=like.numel(), dtype=like.dtype)
    except OSError as error:
        raise ApdmError(
            f"--memory low needs room for temporary files in {tempfile.gettempdir()}: "
            f"{error.strerror or error}",
            "Free some, or name another folder in the environment variable TMPDIR.",
        ) from error
    finally:
        os.close(handle)
        if os.name == "posix":  # elsewhere an open file keeps its name
            os.unlink(name)
    return flat.view(like.shape)


def map_weights(module: nn.Module) -> None:
    """Move the parameters of `module` into mapped files, in place."""
    for weight in module.parameters():
        weight.data = mapped_zeros(weight).copy_(weight.detach())


def with_mapped_moments(make: MakeOptimizer) -> MakeOptimizer:
    """The same AdamW, with the two moments of every parameter in mapped files."""

    def make_mapped(parameters: list[nn.Parameter], rate: float) -> torch.optim.Optimizer:
        optimizer = make(parameters, rate)
        for weight in parameters:
            optimizer.state[weight] = {
                "step": torch.zeros((), dtype=torch.float32),
                "exp_avg": mapped_zeros(weight),
                "exp_avg_sq": mapped_zeros(weight),
            }
        return optimizer

    return make_mapped


def rounded_copy(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A frozen copy with the weights of linear layers and convolutions in `dtype`.

    Autocast to `dtype` rounds just those whenever they are used, so that under it the copy
    computes the same bits. Norms, which it computes in float32, stay as they are.
    """
    memo: dict[int, object] = {}
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            for weight in layer.parameters(recurse=False):
                memo[id(weight)] = nn.Parameter(weight.detach().to(dtype), requires_grad=False)
    return copy.deepcopy(module, memo).requires_grad_(False).eval()


def main_memory_copy(module: nn.Module) -> nn.Module:
    """A frozen copy whose weights lie in main memory."""
    memo: dict[int, object] = {
        id(weight): nn.Parameter(_pinned_like(weight).copy_(weight.detach()), requires_grad=False)
        for weight in module.parameters()
    }
    return copy.deepcopy(module, memo)


class Waiting:
    """Weights that make room on a card while they are not needed."""

    def __init__(self) -> None:
        self._places: dict[int, Tensor] = {}

    @contextlib.contextmanager
    def away(self, weights: Sequence[nn.Parameter]) -> Iterator[None]:
        """Inside, `weights` lie in main memory and must not be used; their gradients stay.

        Their storages are emptied and filled again, so that who shares them still does. Copies run
        in the order of the card's work: nobody waits for them.
        """
        sizes = [weight.untyped_storage().nbytes() for weight in weights]
        for weight in weights:
            if id(weight) not in self._places:
                self._places[id(weight)] = _pinned_like(weight)
            self._places[id(weight)].copy_(weight.detach(), non_blocking=True)
            weight.untyped_storage().resize_(0)
        try:
            yield
        finally:
            for weight, size in zip(weights, sizes, strict=True):
                weight.untyped_storage().resize_(size)
                weight.data.copy_(self._places[id(weight)], non_blocking=True)


def _pinned_like(weight: Tensor) -> Tensor:
    on_card = weight.device.type == "cuda"
    return torch.empty_like(weight, device="cpu", pin_memory=on_card, requires_grad=False)
