"""Tensors in memory-mapped files, for models whose copies do not fit into the memory."""

from __future__ import annotations

import os
import tempfile

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
