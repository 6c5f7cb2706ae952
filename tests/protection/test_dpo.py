"""Direct Protective Optimization against numbers that were worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from apdm_cli.protection.dpo import (
    Reduction,
    direct_protective_loss,
    naive_protection_loss,
    relative_margin,
    relative_protective_loss,
    reward_margin,
)
from tests.protection.toys import random


def grid(a: float, b: float, c: float, d: float) -> Tensor:
    return torch.tensor([[[[a, b], [c, d]]]], dtype=torch.float32)


# r⁺ = [-1, 0, 1, 2], r⁻ = [4, 0, -1, 1], r⁺ − r⁻ = [-5, 0, 2, 1]: mean −1/2, sum −2.
POLICY_POSITIVE, REFERENCE_POSITIVE = grid(1, 2, 3, 4), grid(2, 2, 2, 2)
POLICY_NEGATIVE, REFERENCE_NEGATIVE = grid(5, 1, 0, 2), grid(1, 1, 1, 1)
ALL = (POLICY_POSITIVE, REFERENCE_POSITIVE, POLICY_NEGATIVE, REFERENCE_NEGATIVE)


def test_margins_by_hand() -> None:
    assert reward_margin(POLICY_POSITIVE, REFERENCE_POSITIVE).flatten().tolist() == [-1, 0, 1, 2]
    assert reward_margin(POLICY_NEGATIVE, REFERENCE_NEGATIVE).flatten().tolist() == [4, 0, -1, 1]


@pytest.mark.parametrize(
    ("reduction", "beta", "expected"),
    [
        # −log σ(−x) = log(1 + eˣ) at −5, 0, 2, 1, then the mean
        ("element", 1.0, (0.0067153485 + 0.6931471806 + 2.1269280110 + 1.3132616875) / 4),
        # at −10, 0, 4, 2
        ("element", 2.0, (0.0000453989 + 0.6931471806 + 4.0181499279 + 2.1269280110) / 4),
        ("sample", 1.0, 0.4740769842),  # at −1/2
        ("sample", 4.0, 0.1269280110),  # at −2
        ("sum", 1.0, 0.1269280110),  # at −2: sum at β is sample at 4β
    ],
)
def test_loss_by_hand(reduction: Reduction, beta: float, expected: float) -> None:
    loss = direct_protective_loss(*ALL, beta, reduction)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_bound_on_the_negative_margin_by_hand() -> None:
    # r⁻ = [1, 0, −1, 1] after the bound, r⁺ − r⁻ = [−2, 0, 2, 1]
    expected = (0.1269280110 + 0.6931471806 + 2.1269280110 + 1.3132616875) / 4
    loss = direct_protective_loss(*ALL, 1.0, "element", max_negative_margin=1.0)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("reduction", ["element", "sample", "sum"])
def test_loss_is_log_two_where_nothing_was_learned(reduction: Reduction) -> None:
    error = random(2, 4, 3, 3).square()
    other = random(2, 4, 3, 3, seed=1).square()
    loss = direct_protective_loss(error, error, other, other, 3.0, reduction)
    assert loss.item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("reduction", ["element", "sample", "sum"])
def test_gradient_pushes_generic_errors_down_and_photo_errors_up(reduction: Reduction) -> None:
    positive = POLICY_POSITIVE.clone().requires_grad_()
    negative = POLICY_NEGATIVE.clone().requires_grad_()
    loss = direct_protective_loss(
        positive, REFERENCE_POSITIVE, negative, REFERENCE_NEGATIVE, 1.0, reduction
    )
    loss.backward()
    assert positive.grad is not None and negative.grad is not None
    assert (positive.grad > 0).all()
    assert (negative.grad < 0).all()
    assert torch.allclose(positive.grad, -negative.grad)


def test_batch_is_averaged_after_the_sigmoid() -> None:
    def loss(*errors: Tensor) -> float:
        first, second, third, fourth = errors
        return direct_protective_loss(first, second, third, fourth, 1.0, "sample").item()

    together = loss(*(torch.cat([tensor, 3 * tensor]) for tensor in ALL))
    apart = loss(*ALL), loss(*(3 * tensor for tensor in ALL))
    assert together == pytest.approx(sum(apart) / 2)


@pytest.mark.parametrize("reduction", ["element", "sample", "sum"])
def test_huge_margins_stay_finite(reduction: Reduction) -> None:
    huge, zero = grid(1e6, 1e6, 1e6, 1e6), grid(0, 0, 0, 0)
    bad = direct_protective_loss(huge, zero, zero, zero, 1.0, reduction)
    good = direct_protective_loss(zero, zero, huge, zero, 1.0, reduction)
    assert math.isfinite(bad.item()) and bad.item() >= 1e6
    assert good.item() == 0


def test_naive_loss_is_the_negated_error() -> None:
    assert naive_protection_loss(POLICY_NEGATIVE).item() == -2.0


def test_relative_margin_by_hand() -> None:
    # Means per sample: 2.5 against 2, and 2 against 1.
    assert relative_margin(POLICY_POSITIVE, REFERENCE_POSITIVE).item() == pytest.approx(
        math.log(2.5 / 2)
    )
    both = relative_margin(
        torch.cat([POLICY_POSITIVE, POLICY_NEGATIVE]),
        torch.cat([REFERENCE_POSITIVE, REFERENCE_NEGATIVE]),
    )
    assert both.tolist() == pytest.approx([math.log(1.25), math.log(2.0)])


def test_relative_margin_does_not_see_how_large_errors_are() -> None:
    small, large = random(3, 4, 2, 2).square(), random(3, 4, 2, 2, seed=1).square()
    scaled = relative_margin(1e-3 * small, 1e-3 * large)
    assert torch.allclose(scaled, relative_margin(small, large), atol=1e-5)
    zero = torch.zeros_like(small)
    assert relative_margin(zero, large).isfinite().all()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # softplus(2 (r⁺ − r⁻)) / 2 at r⁺ − r⁻ = −1.5 and 0.5
        ({}, (math.log1p(math.exp(-3)) + math.log1p(math.exp(1))) / 4),
        # r⁺ = −0.5 counts as 0: −1 and 0.5
        ({"one_sided": True}, (math.log1p(math.exp(-2)) + math.log1p(math.exp(1))) / 4),
        # r⁻ = 1 counts as 0.25: −0.75 and 0.5
        ({"max_negative_margin": 0.25}, (math.log1p(math.exp(-1.5)) + math.log1p(math.exp(1))) / 4),
    ],
)
def test_relative_loss_by_hand(options: dict[str, Any], expected: float) -> None:
    positive, negative = torch.tensor([-0.5, 0.25]), torch.tensor([1.0, -0.25])
    loss = relative_protective_loss(positive, negative, 2.0, **options)
    assert loss.item() == pytest.approx(expected)


@pytest.mark.parametrize("beta", [0.5, 1.0, 8.0])
def test_relative_loss_where_nothing_was_learned_and_far_from_the_goal(beta: float) -> None:
    zero = torch.zeros(3)
    assert relative_protective_loss(zero, zero, beta).item() == pytest.approx(math.log(2) / beta)
    far = torch.full((3,), 100.0, requires_grad=True)
    relative_protective_loss(far, zero, beta).backward()
    assert far.grad is not None and torch.allclose(far.grad, torch.full((3,), 1 / 3))
