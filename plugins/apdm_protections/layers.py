"""Protections that move a part of the network only: which weights these are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from apdm_cli.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

Layers = Literal["cross-attention", "attention", "all"]
# Parts of the names that diffusers gives these layers.
NAMES = {
    "cross-attention": ("attn2.",),
    "attention": ("to_q.", "to_k.", "to_v.", "to_out."),
    "all": ("",),
}


@contextlib.contextmanager
def only(network: nn.Module, layers: Layers) -> Iterator[list[nn.Parameter]]:
    """The weights of `layers`; inside the block nothing else of the network has gradients.

    Raises:
        UsageError: the network has no such layers.
    """
    chosen = named(network, layers)
    rest = [weight for weight in _others(network, chosen) if weight.requires_grad]
    for weight in rest:
        weight.requires_grad_(False)
    try:
        yield chosen
    finally:
        for weight in rest:
            weight.requires_grad_(True)


def named(network: nn.Module, layers: Layers) -> list[nn.Parameter]:
    """The weights of `layers`. UsageError where the network has none."""
    parts = NAMES[layers]
    found = [
        weight for name, weight in network.named_parameters() if any(part in name for part in parts)
    ]
    if not found:
        raise UsageError(
            f"layers = {layers}: {type(network).__name__} has no such layers",
            "Move all of them: --set layers=all",
        )
    return found


def _others(network: nn.Module, chosen: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    there = {id(weight) for weight in chosen}
    return [weight for weight in network.parameters() if id(weight) not in there]
