"""Which weights of a simulated attacker's copy lie in the memory of θ's, and which are its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


def share(mine: nn.Module, original: nn.Module, trained: Sequence[nn.Parameter]) -> None:
    """Let untouched weights of the copy `mine` lie in the memory of `original`'s."""
    kept = {id(parameter) for parameter in trained}
    weights = dict(original.named_parameters())
    for name, own in mine.named_parameters():
        other = weights.get(name)
        if other is None or id(own) in kept or own.shape != other.shape:
            continue
        if own.dtype == other.dtype and torch.equal(own, other):
            own.data = other.data


def own_memory(trained: Sequence[nn.Parameter], frozen: nn.Module) -> None:
    """Give what an attacker trains its own memory, in float32, where it lies in `frozen`'s."""
    below = {weight.data_ptr() for weight in frozen.parameters()}
    for parameter in trained:
        shared = parameter.data_ptr() in below
        parameter.data = parameter.data.to(torch.float32, copy=shared)
