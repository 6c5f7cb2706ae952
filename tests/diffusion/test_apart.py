"""Forwards that run backward one after the other give the gradients of those that wait."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from apdm_cli.diffusion.apart import apart
from apdm_cli.diffusion.condition import Condition
from apdm_cli.diffusion.denoiser import Denoiser
from apdm_cli.protection.activations import activation_bytes, recorded_bytes
from tests.protection import toys

DRAWS = [toys.draw(1, seed) for seed in (1, 2, 3)]


def gradients(one_forward: bool) -> tuple[Tensor, Tensor]:
    """Of the weights, and of what becomes the conditions."""
    denoiser, root = toys.denoiser(), toys.random(3, 3, toys.WIDTH, seed=5).requires_grad_(True)
    texts = Condition({"text": 2 * root}).split(1)
    first, second, third = denoiser.squared_errors(DRAWS, texts, one_forward=one_forward)
    # Not a sum: the gradient of each forward depends on what the others answered.
    (first.mean() * second.mean() + third.mean().square()).backward()
    assert root.grad is not None
    return toys.gradients(denoiser.network), root.grad


def test_gradients_are_those_of_one_forward() -> None:
    for found, expected in zip(gradients(False), gradients(True), strict=True):
        # Of the whole: in another batch some processors round single values by more.
        assert (found - expected).norm() < 1e-5 * expected.norm()


def test_gradients_add_to_what_is_there() -> None:
    denoiser, texts = toys.denoiser(), [toys.condition(seed) for seed in range(3)]
    errors = [error.mean() for error in denoiser.squared_errors(DRAWS, texts, one_forward=False)]
    torch.stack(errors).sum().backward()
    once = toys.gradients(denoiser.network)
    errors = [error.mean() for error in denoiser.squared_errors(DRAWS, texts, one_forward=False)]
    torch.stack(errors).sum().backward()
    assert torch.allclose(toys.gradients(denoiser.network), 2 * once, rtol=1e-5, atol=1e-7)


def test_where_there_is_nothing_to_train_there_is_no_gradient() -> None:
    denoiser = toys.denoiser()
    denoiser.network.requires_grad_(False)
    answers = denoiser.predict_each(DRAWS, [toys.condition(0)] * 3, one_forward=False)
    assert not any(answer.requires_grad for answer in answers)
    denoiser.network.requires_grad_(True)
    with torch.no_grad():
        assert not apart(
            lambda c: c["text"] * denoiser.target(DRAWS[0]).mean(), toys.condition(0)
        ).requires_grad


def test_gradients_of_all_weights_are_held_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three forwards need the memory of their activations, and not of the weights once more."""
    denoiser = toys.denoiser()
    weights = 4 * sum(weight.numel() for weight in denoiser.network.parameters())

    def needed() -> int:
        return activation_bytes(
            denoiser, toys.condition(0), (toys.CHANNELS, 2, 2), 3, one_forward=False
        )

    apart = needed()
    monkeypatch.setattr("apdm_cli.protection.activations.apart", lambda ask, text: ask(text))
    assert needed() > apart + 0.8 * weights


def test_activations_grow_with_samples_and_not_with_what_is_recomputed() -> None:
    dtype = torch.bfloat16
    denoiser = Denoiser(toys.denoiser().network, toys.process(), toys.FAMILY.predict, dtype)

    def needed(samples: int, *, one_forward: bool = True) -> int:
        return activation_bytes(
            denoiser, toys.condition(0), (toys.CHANNELS, 32, 32), samples, one_forward=one_forward
        )

    one, three = needed(1), needed(3)
    # At least what ten layers' inputs take, in the precision that is computed in.
    assert three - one > 2 * 10 * 8 * 32 * 32 * dtype.itemsize
    network: Any = denoiser.network
    network.enable_gradient_checkpointing()
    assert needed(3, one_forward=False) < 0.7 * three
    assert all(weight.grad is None for weight in denoiser.network.parameters())


def test_recorded_passes_cast_no_weights_and_hold_all_gradients() -> None:
    half = torch.bfloat16
    denoiser = Denoiser(toys.denoiser().network, toys.process(), toys.FAMILY.predict, half)
    weights = sum(weight.numel() for weight in denoiser.network.parameters())

    def needed(samples: int, side: int) -> int:
        shape = (toys.CHANNELS, side, side)
        return recorded_bytes(denoiser, toys.condition(0), shape, samples, half)

    def launched(samples: int, side: int) -> int:
        shape = (toys.CHANNELS, side, side)
        return activation_bytes(denoiser, toys.condition(0), shape, samples, one_forward=True)

    # Where there is next to nothing to activate, all gradients are what there is.
    assert weights * half.itemsize <= needed(1, 2) < launched(1, 2)
    # Among activations it is what autocast keeps in float32.
    assert 2 * 10 * 8 * 32 * 32 * half.itemsize < needed(3, 32) - needed(1, 32)
    assert needed(3, 32) - needed(1, 32) < launched(3, 32) - launched(1, 32)
