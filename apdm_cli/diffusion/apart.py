"""Forwards whose backward passes run one after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from apdm_cli.diffusion.condition import Condition


def apart(ask: Callable[[Condition], Tensor], condition: Condition) -> Tensor:
    """`ask(condition)`, with a backward pass of its own inside that of the loss.

    A loss on several forwards through the same weights otherwise holds the gradients of all
    weights once more: each waits until the last of the forwards has given its part. Here every
    forward adds to `.grad` at once. So `backward` works, and `torch.autograd.grad` for the weights
    does not.
    """
    if not torch.is_grad_enabled():
        return ask(condition)
    names = tuple(condition.tensors)
    anchor = torch.zeros((), requires_grad=True)  # without it the answer would have no gradient
    answer: Tensor = _Apart.apply(
        lambda *tensors: ask(Condition(dict(zip(names, tensors, strict=True)))),
        anchor,
        *condition.tensors.values(),
    )
    return answer


class _Apart(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ask: Callable[..., Tensor], anchor: Tensor, *inputs: Tensor) -> Tensor:
        ctx.inputs = [each.detach().requires_grad_(each.requires_grad) for each in inputs]
        with torch.enable_grad():
            answer = ask(*ctx.inputs)
        ctx.answer = answer
        plain = answer.detach()
        if not answer.requires_grad:
            ctx.mark_non_differentiable(plain)
        return plain

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        answer, ctx.answer = ctx.answer, None
        torch.autograd.backward(answer, gradients[0])
        return (None, None, *(each.grad for each in ctx.inputs))
