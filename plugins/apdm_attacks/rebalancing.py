"""Rescales layers so that together they do what they did, with weights as small as can be."""

from __future__ import annotations

import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor, nn

from apdm_cli.errors import ApdmError

SWEEPS = 20


@torch.no_grad()
def rebalance(network: nn.Module) -> None:
    """Undo every function-preserving rescaling in the blocks of attention of `network`.

    A defender may multiply one layer and divide the next, which changes no picture and slows the
    training (arXiv 2602.18868). Whoever knows it goes to the one network of all these that has the
    smallest sum of squares, channel by channel and pair by pair until nothing changes any more,
    as in cross-layer equalization (arXiv 1906.04721). The pairs: queries and keys, values and the
    output, the linear half of GEGLU and the layer behind it, a norm's own scale and its readers.
    """
    blocks = [part for part in network.modules() if isinstance(part, BasicTransformerBlock)]
    if not blocks:
        raise ApdmError(
            "rebalance knows the blocks of a U-Net, and this model has none",
            "Choose another variant.",
        )
    for block in blocks:
        pairs = _pairs(block)
        for _ in range(SWEEPS):
            for rows, columns in pairs:
                _balance(rows, columns)


def _pairs(block: BasicTransformerBlock) -> list[tuple[list[Tensor], list[Tensor]]]:
    """(weights whose rows are channels, weights whose columns are the same channels)."""
    own, cross, (gate, _, last) = block.attn1, block.attn2, block.ff.net
    hidden = gate.proj.out_features // 2  # the other half goes through GELU
    pairs = [([gate.proj.weight[:hidden], gate.proj.bias[:hidden, None]], [last.weight])]
    for attention in (own, cross):
        pairs.append(([attention.to_q.weight], [attention.to_k.weight.T]))
        pairs.append(([attention.to_v.weight], [attention.to_out[0].weight]))
    readers = (own.to_q, own.to_k, own.to_v), (cross.to_q,), (gate.proj,)
    for norm, layers in zip((block.norm1, block.norm2, block.norm3), readers, strict=True):
        scale = [norm.weight[:, None], norm.bias[:, None]]
        pairs.append((scale, [layer.weight for layer in layers]))
    return pairs


def _balance(rows: list[Tensor], columns: list[Tensor]) -> None:
    """Multiply the rows and divide the columns of every channel, so that they are as long."""
    before = sum(part.square().sum(dim=1) for part in rows)
    behind = sum(part.square().sum(dim=0) for part in columns)
    scale = (behind / before) ** 0.25
    scale = torch.where(scale.isfinite() & (scale > 0), scale, 1.0)  # a channel that is not used
    for part in rows:
        part.mul_(scale[:, None])
    for part in columns:
        part.div_(scale)
