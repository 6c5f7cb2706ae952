"""A whole network in half precision."""

from __future__ import annotations

import copy

import torch
from torch import nn


def in_precision(network: nn.Module, dtype: torch.dtype, layout: torch.memory_format) -> nn.Module:
    """A frozen copy whose weights and buffers are rounded to `dtype`.

    Weight by weight: a copy in the network's own precision is never there.
    """
    memo: dict[int, object] = {
        id(weight): nn.Parameter(weight.detach().to(dtype, copy=True), requires_grad=False)
        for weight in network.parameters()
    }
    made = copy.deepcopy(network, memo)
    nn.Module.to(made, dtype)  # buffers; diffusers' own warns of half precision
    nn.Module.to(made, memory_format=layout)
    return made
