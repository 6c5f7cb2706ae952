"""The one training loop."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from apdm_cli.personalization.loop import NonFiniteLoss, train


def quadratic(start: float = 3.0) -> tuple[Tensor, Callable[[], Tensor]]:
    weight = torch.tensor([start], requires_grad=True)
    return weight, lambda: weight.square().sum()


def test_steps_are_the_optimizers_own() -> None:
    weight, loss = quadratic()
    optimizer = torch.optim.SGD([weight], lr=99.0)
    steps = list(train(loss, [weight], optimizer, range(2), lambda _: 0.1))
    assert [step.index for step in steps] == [0, 1]
    assert [step.loss for step in steps] == pytest.approx([9.0, 2.4**2])
    assert weight.item() == pytest.approx(3.0 * 0.8**2)


def test_learning_rate_follows_the_index() -> None:
    weight, loss = quadratic()
    optimizer = torch.optim.SGD([weight], lr=99.0)
    steps = list(train(loss, [weight], optimizer, range(3, 6), lambda index: index / 100))
    assert [(step.index, step.learning_rate) for step in steps] == [(3, 0.03), (4, 0.04), (5, 0.05)]


def test_gradient_is_there_between_two_steps_and_cleared_at_the_next() -> None:
    weight, loss = quadratic()
    optimizer = torch.optim.SGD([weight], lr=0.0)
    for _ in train(loss, [weight], optimizer, range(2), lambda _: 0.0):
        assert weight.grad is not None and weight.grad.item() == 6.0
        weight.grad += 100.0


def test_gradient_is_clipped_and_batches_are_averaged() -> None:
    weight, loss = quadratic()
    optimizer = torch.optim.SGD([weight], lr=0.1)
    calls: list[int] = []

    def counted() -> Tensor:
        calls.append(1)
        return loss()

    step = next(
        train(
            counted, [weight], optimizer, range(1), lambda _: 0.1, max_grad_norm=1.0, accumulation=4
        )
    )
    assert len(calls) == 4
    assert step.loss == pytest.approx(9.0)
    assert weight.item() == pytest.approx(2.9, rel=1e-5)


def test_non_finite_loss_stops_before_the_weights_change() -> None:
    weight, _ = quadratic()
    optimizer = torch.optim.SGD([weight], lr=0.1)
    with pytest.raises(NonFiniteLoss, match=r"personalization loss .* at step 7") as caught:
        list(
            train(lambda: weight.sum() * math.nan, [weight], optimizer, range(7, 9), lambda _: 0.1)
        )
    assert caught.value.term == "personalization loss"
    assert weight.item() == 3.0
