"""AdamW in its kinds."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from apdm_cli.errors import ApdmError

MakeOptimizer = Callable[[list[nn.Parameter], float], torch.optim.Optimizer]


def adamw(
    kind: str,
    betas: tuple[float, float],
    weight_decay: float,
    *,
    moments_on_disk: bool = False,
) -> MakeOptimizer:
    """A function (parameters, learning rate) → optimizer.

    Args:
        kind: "adamw" or "adamw8bit" (bitsandbytes, an extra).
        moments_on_disk: keep AdamW's moments in memory-mapped temporary files, so that the
            system may write them out; for models whose copies fill the memory.

    Raises:
        ApdmError: when bitsandbytes is asked for and missing.
    """
    if kind == "adamw8bit":
        try:
            from bitsandbytes.optim import AdamW8bit
        except ImportError as error:
            raise ApdmError(
                "optimizer adamw8bit needs the package bitsandbytes, which is not installed",
                "install the extra apdm[adam8bit], or use --set optimizer=adamw",
            ) from error
        return lambda parameters, rate: AdamW8bit(
            parameters, lr=rate, betas=betas, weight_decay=weight_decay
        )

    def make(parameters: list[nn.Parameter], rate: float) -> torch.optim.Optimizer:
        # foreach would copy whole lists of tensors, which is what low memory cannot afford.
        optimizer = torch.optim.AdamW(
            parameters, lr=rate, betas=betas, weight_decay=weight_decay, foreach=not moments_on_disk
        )
        if moments_on_disk:
            _map_moments(optimizer)
        return optimizer

    return make


def _map_moments(optimizer: torch.optim.Optimizer) -> None:
    """Create AdamW's state now, its moments in one memory-mapped file."""
    folder = tempfile.TemporaryDirectory(prefix="apdm-moments-")
    optimizer.moments_folder = folder  # type: ignore[attr-defined]  # lives as long as it
    file = Path(folder.name) / "moments.bin"
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    total = sum(2 * weight.numel() for weight in weights)
    flat = torch.from_file(str(file), shared=True, size=total, dtype=torch.float32)
    place = 0

    def take(weight: nn.Parameter) -> Tensor:
        nonlocal place
        part = flat[place : place + weight.numel()].view_as(weight)
        place += weight.numel()
        return part

    for weight in weights:
        optimizer.state[weight] = {
            "step": torch.zeros((), dtype=torch.float32),
            "exp_avg": take(weight),
            "exp_avg_sq": take(weight),
        }
