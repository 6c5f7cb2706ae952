"""The one training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

from apdm_cli.devices import Arriving
from apdm_cli.errors import ApdmError


class NonFiniteLoss(ApdmError):
    """A loss or gradient became NaN or infinite: what is trained is worth nothing any more.

    Attributes:
        term: what it was, "personalization loss" for one.
        step: its index; as many steps before it were finite.
    """

    def __init__(self, term: str, step: int) -> None:
        self.term, self.step = term, step
        super().__init__(
            f"the {term} is no longer finite at step {step}",
            "Lower the learning rates, or use --dtype fp32.",
        )


class Step:
    """What a training loop yields after every step.

    Args:
        index: of the step just taken, from 0.
        losses: values before the step, which add up; scalars on the device.
        learning_rate: that the step used.
    """

    def __init__(self, index: int, losses: Sequence[Tensor], learning_rate: float) -> None:
        self.index, self.learning_rate = index, learning_rate
        self._losses = Arriving(torch.stack([*losses]))

    @cached_property
    def loss(self) -> float:
        """Value before the step. On a card, reading it waits for it.

        Raises:
            NonFiniteLoss: it is NaN or infinite.
        """
        total = float(sum(self._losses.read()))
        if not math.isfinite(total):
            raise NonFiniteLoss("personalization loss", self.index)
        return total


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
        NonFiniteLoss: before the weights are touched; on a card, which is not waited for, one step
            later, unless the step's loss is read before.
    """
    last: Step | None = None
    for index in steps:
        rate = learning_rate(index)
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("relative_rate", 1.0)
        optimizer.zero_grad()
        losses = []
        for _ in range(accumulation):
            value = loss() / accumulation
            value.backward()
            losses.append(value.detach())
        step = Step(index, losses, rate)
        checked = last if losses[0].is_cuda else step
        if checked is not None:
            checked.loss  # noqa: B018  raises where it is not finite
        last = step
        if max_grad_norm > 0:
            torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm)
        optimizer.step()
        yield step
    if last is not None:
        last.loss  # noqa: B018
