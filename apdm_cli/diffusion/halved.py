"""A trained network in half precision, to draw with on a card.

What trains is held in float32. Under autocast every forward would cast every weight anew, and
compute normalizations in float32: on a U-Net copies and casts are a third of the time
(benchmarks/NOTES.md). A picture takes twenty forwards with the same weights, so these are rounded
once.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import KeyPath, tree_map_only, tree_map_with_path

from apdm_cli.diffusion.family import Components
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.rounding import in_precision


def components_to_draw_with(model: DiffusionModel) -> Components:
    """Those of `model`, on a card in half precision with a rounded copy of the trained network.

    The copy takes and gives float32, so that a sampler's arithmetic stays in it. There is none
    where memory is short, and of networks that are not plain float32 (8 bits, a difference on top).
    """
    if model.device.type != "cuda" or model.dtype == torch.float32 or not _is_plain(model.trained):
        return model.components
    try:
        rounded = in_half(model.trained, model.dtype, model.family.exact)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return model.components
    return {**model.components, model.family.trained: rounded}


def in_half(network: nn.Module, dtype: torch.dtype, exact: Collection[str] = ()) -> nn.Module:
    """A copy of `network` that computes in `dtype` throughout, and takes and gives float32.

    Args:
        exact: names of arguments, or of entries in them, that are given to it as they are.
    """
    # In channels_last group norms would copy what they read and write, which in batches of this
    # size costs more than convolutions gain.
    made = in_precision(network, dtype, torch.contiguous_format)
    made_on, computed = next(made.parameters()).device, made.forward

    def forward(*given: Any, **named: Any) -> Any:
        # A vector of timesteps is no activation, and half precision would round it.
        def rounded(path: KeyPath, one: Any) -> Any:
            activation = isinstance(one, Tensor) and one.is_floating_point() and one.dim() > 1
            is_exact = any(getattr(step, "key", None) in exact for step in path)
            return one.to(dtype) if activation and not is_exact else one

        given, named = tree_map_with_path(rounded, (given, named))
        with torch.autocast(made_on.type, enabled=False):
            answer = computed(*given, **named)
        return tree_map_only(Tensor, Tensor.float, answer)

    made.forward = forward
    return made


def _is_plain(network: nn.Module) -> bool:
    hooked = any(part._forward_hooks or part._forward_pre_hooks for part in network.modules())
    return not hooked and all(weight.dtype == torch.float32 for weight in network.parameters())
