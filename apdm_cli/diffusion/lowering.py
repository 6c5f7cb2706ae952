"""From float32 to the compute precision, but for the modules that a class wants in float32.

T5 makes hidden states beyond what float16 holds, so that transformers keeps its `wo` in float32.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn


def lower(network: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Move `network` to `device` in `dtype`, in place, as `from_pretrained(dtype=dtype)` holds it.

    Where modules stay in float32, it runs without the autocast that it is called under, which
    would round them.
    """
    wide = _wide(network, dtype)
    kept = {name: weight.data for name, weight in network.named_parameters() if _is_in(name, wide)}
    network.to(device, dtype)
    for name, weight in kept.items():
        network.get_parameter(name).data = weight.to(device, torch.float32)
    if kept:
        _without_autocast(network, device)


def _wide(network: nn.Module, dtype: torch.dtype) -> set[str]:
    """The names of modules that stay in float32, as transformers' classes say."""
    lists = {
        torch.float16: ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict"),
        torch.bfloat16: ("_keep_in_fp32_modules_strict",),
    }
    return {name for each in lists.get(dtype, ()) for name in getattr(network, each, None) or ()}


def _is_in(weight: str, modules: set[str]) -> bool:
    return any(re.search(rf"(^|\.){re.escape(name)}($|\.)", weight) for name in modules)


def _without_autocast(network: nn.Module, device: torch.device) -> None:
    entered: list[torch.autocast] = []

    def before(module: nn.Module, given: Any) -> None:
        entered.append(torch.autocast(device.type, enabled=False))
        entered[-1].__enter__()

    def after(module: nn.Module, given: Any, output: Any) -> None:
        entered.pop().__exit__(None, None, None)

    network.register_forward_pre_hook(before)
    network.register_forward_hook(after, always_call=True)
