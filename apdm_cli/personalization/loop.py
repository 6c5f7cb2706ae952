"""The one training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from apdm_cli.errors import ApdmError


@dataclass(frozen=True)
class Step:
    """What a training loop yields after every step.

    Attributes:
        index: of the step just taken, from 0.
        loss: value before the step.
        learning_rate: that the step used.
    """

    index: int
    loss: float
    learning_rate: float


class NonFiniteLoss(ApdmError):
    """A loss or gradient became NaN or infinite; that step wrote nothing to the weights.

    Attributes:
        term: what it was, "personalization loss" for one.
    """

    def __init__(self, term: str, step: int) -> None:
        self.term = term
        super().__init__(
            f"the {term} is no longer finite at step {step}",
            "Lower the learning rates, or use --dtype fp32.",
        )


def train(
    loss: Callable[[], Tensor],
    parameters: Sequence[Tensor],
    optimizer: torch.optim.Optimizer,
    steps: range,
    learning_rate: Callable[[int], float],
    *,
    max_grad_norm: float = 0.0,
    accumulation: int = 1,
) -> Iterator[Step]:
    """Minimize `loss` and yield after every step.

    The caller may look at, add to, or read the gradients between two steps: they are cleared at
    the beginning of a step, not at its end. Learning-to-Protect relies on this.

    Args:
        loss: draws a batch and returns a scalar.
        parameters: what `optimizer` updates; used for clipping.
        steps: indices of the steps to take; starts above 0 when resuming.
        learning_rate: value for a step's index.
        max_grad_norm: clip the gradient's 2-norm to this; 0 leaves it alone.
        accumulation: number of losses averaged per step.

    Raises:
        NonFiniteLoss: before the weights are touched.
    """
    for index in steps:
        rate = learning_rate(index)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=False)
        total = 0.0
        for _ in range(accumulation):
            value = loss() / accumulation
            value.backward()
            total += value.item()
        if not math.isfinite(total):
            raise NonFiniteLoss("personalization loss", index)
        if max_grad_norm > 0:
            torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm)
        optimizer.step()
        yield Step(index, total, rate)
