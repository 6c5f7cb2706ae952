"""The optimizers, by the names that configurations use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from apdm_cli.errors import ApdmError
from apdm_cli.personalization.lion import Lion

FUSED = True
MakeOptimizer = Callable[[list[nn.Parameter], float], torch.optim.Optimizer]


def make_optimizer(
    kind: str, betas: tuple[float, float], weight_decay: float, d0: float = 1e-6
) -> MakeOptimizer:
    """A function (parameters, learning rate) → optimizer, for every kind that attacks know.

    Args:
        kind: those of `adamw`, "sgd" (momentum betas[0]), "adafactor" (arXiv 1804.04235), "lion"
            (arXiv 2302.06675) or "prodigy" (arXiv 2306.06101, the package prodigyopt, an extra),
            which finds the size of its steps and multiplies it by the rate.
        d0: Prodigy's first guess of that size.

    Raises:
        ApdmError: when a package is asked for and missing.
    """
    if kind == "sgd":
        return lambda parameters, rate: torch.optim.SGD(
            parameters, lr=rate, momentum=betas[0], weight_decay=weight_decay
        )
    if kind == "adafactor":
        return lambda parameters, rate: torch.optim.Adafactor(
            parameters, lr=rate, weight_decay=weight_decay
        )
    if kind == "lion":
        return lambda parameters, rate: Lion(
            parameters, lr=rate, betas=betas, weight_decay=weight_decay
        )
    if kind == "prodigy":
        return _prodigy(betas, weight_decay, d0)
    return adamw(kind, betas, weight_decay)


def _prodigy(betas: tuple[float, float], weight_decay: float, d0: float) -> MakeOptimizer:
    """As the trainers that offer it set it: Adam's bias corrected, warm-up without effect on d."""
    try:
        from prodigyopt import Prodigy
    except ImportError as error:
        raise ApdmError(
            "Optimizer prodigy needs the package prodigyopt, which is not installed",
            "Install the extra (pip install 'apdm[prodigy]'), or use --set optimizer=adamw with a "
            "learning rate of its own.",
        ) from error

    def make(parameters: list[nn.Parameter], rate: float) -> torch.optim.Optimizer:
        # Asked for weight decay when it is made, it prints a line to where results are printed.
        optimizer: torch.optim.Optimizer = Prodigy(
            parameters,
            lr=rate,
            betas=betas,
            d0=d0,
            use_bias_correction=True,
            safeguard_warmup=True,
        )
        for group in (optimizer.defaults, *optimizer.param_groups):
            group["weight_decay"] = weight_decay
        return optimizer

    return make


def adamw(kind: str, betas: tuple[float, float], weight_decay: float) -> MakeOptimizer:
    """A function (parameters, learning rate) → optimizer.

    Args:
        kind: "adamw" or "adamw8bit" (bitsandbytes, an extra).

    Raises:
        ApdmError: when bitsandbytes is asked for and missing.
    """
    if kind == "adamw8bit":
        try:
            from bitsandbytes.optim import AdamW8bit
        except ImportError as error:
            raise ApdmError(
                "Optimizer adamw8bit needs the package bitsandbytes, which is not installed",
                "Install the extra (pip install 'apdm[adam8bit]'), or use --set optimizer=adamw",
            ) from error
        return lambda parameters, rate: AdamW8bit(
            parameters, lr=rate, betas=betas, weight_decay=weight_decay
        )

    # Fused: the quickest also on a processor (a fifth of the time), without copies of the weights.
    return lambda parameters, rate: torch.optim.AdamW(
        parameters, lr=rate, betas=betas, weight_decay=weight_decay, fused=FUSED
    )


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """`optimizer.load_state_dict(saved)`; tensors that exist already stay where they lie.

    Moments get the memory layout of their weights, which files do not keep: on a card a fused step
    takes no other.
    """
    before = {weight: dict(values) for weight, values in optimizer.state.items()}
    optimizer.load_state_dict(saved)
    for weight, values in optimizer.state.items():
        for name, tensor in values.items():
            if not torch.is_tensor(tensor) or tensor.shape != weight.shape:
                continue
            if tensor.stride() != weight.stride():
                laid_out = torch.empty_like(weight, dtype=tensor.dtype, device=tensor.device)
                values[name] = laid_out.copy_(tensor)
    for weight, values in before.items():
        for name, tensor in values.items():
            if torch.is_tensor(tensor):  # nothing is saved where no step was taken
                found = optimizer.state[weight].get(name)
                optimizer.state[weight][name] = (
                    tensor.zero_() if found is None else tensor.copy_(found)
                )
