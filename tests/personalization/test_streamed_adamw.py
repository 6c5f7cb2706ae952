"""Moments in main memory train like moments on the device, bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn

from apdm_cli.personalization.optimizers import adamw, load_optimizer
from apdm_cli.personalization.streamed_adamw import StreamedAdamW, bytes_on_device
from apdm_cli.randomness import Streams

CPU = torch.device("cpu")
RATE, BETAS, DECAY = 1e-2, (0.9, 0.99), 1e-2
# A weight larger than a bucket, several in one, and one that never has a gradient.
SHAPES = ((70, 30), (3,), (20, 7, 3, 3), (), (11, 5), (40, 40))
BUCKET, IDLE = 1500, 4


def weights(device: torch.device) -> list[nn.Parameter]:
    generator = Streams(0).generator("weights")
    drawn = [torch.randn(shape, generator=generator).to(device) for shape in SHAPES]
    # As a model has them that computes with channels last.
    drawn[2] = drawn[2].contiguous(memory_format=torch.channels_last)
    return [nn.Parameter(each) for each in drawn]


@torch.no_grad()
def train(optimizer: torch.optim.Optimizer, steps: Iterable[int]) -> None:
    (group,) = optimizer.param_groups
    for step in steps:
        generator = Streams(step).generator("gradients")
        for number, weight in enumerate(group["params"]):
            drawn = torch.empty_like(weight).copy_(torch.randn(weight.shape, generator=generator))
            weight.grad = None if number == IDLE else drawn
        group["lr"] = RATE / (1 + step)
        optimizer.step()


def ordinary(of: list[nn.Parameter]) -> torch.optim.Optimizer:
    return adamw("adamw", BETAS, DECAY)(of, RATE)


def streamed(of: list[nn.Parameter]) -> StreamedAdamW:
    return StreamedAdamW(of, RATE, BETAS, DECAY, BUCKET)


def equal(first: Iterable[Tensor], second: Iterable[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def trains_like_the_ordinary_one(device: torch.device) -> None:
    """Also across a checkpoint of either kind that the other goes on from."""
    plain, other = weights(device), weights(device)
    train(ordinary(plain), range(6))
    first = streamed(other)
    train(first, range(2))
    saved = copy.deepcopy(first.state_dict())
    train(first, [7])  # steps that are given up

    again = weights(device)
    with torch.no_grad():
        half = weights(device)
        train(ordinary(half), range(2))
        for weight, value in zip(again, half, strict=True):
            weight.copy_(value)
    second = ordinary(again)
    load_optimizer(second, saved)
    train(second, range(2, 4))
    saved = copy.deepcopy(second.state_dict())

    with torch.no_grad():
        for weight, value in zip(other, again, strict=True):
            weight.copy_(value)
    moment = first.state[other[0]]["exp_avg"]
    load_optimizer(first, saved)
    assert first.state[other[0]]["exp_avg"] is moment and moment.device == CPU
    train(first, range(4, 6))
    assert equal(other, plain)


def test_it_trains_like_the_ordinary_one_and_reads_its_checkpoints() -> None:
    trains_like_the_ordinary_one(CPU)


def test_buckets_hold_as_much_as_they_may_and_every_weight_once() -> None:
    made = streamed(weights(CPU))
    sizes = [[weight.numel() for weight in bucket.weights] for bucket in made._buckets]
    assert sizes == [[2100], [3, 1260, 1, 55], [1600]]
    assert made._buckets[1].moments[0].numel() == 1319


def test_what_a_step_takes_of_the_device_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apdm_cli.personalization.streamed_adamw.BUCKET", BUCKET)
    assert bytes_on_device(weights(CPU)) == 2 * 2 * 4 * 2100  # two buckets of two moments
    assert bytes_on_device(weights(CPU)[1:2]) == 2 * 4 * 3


def test_a_state_without_steps_is_the_beginning() -> None:
    mine = weights(CPU)
    made = streamed(mine)
    train(made, range(2))
    made.load_state_dict(ordinary(weights(CPU)).state_dict())
    assert not any(value.any() for state in made.state.values() for value in state.values())
    assert made.param_groups[0]["lr"] == RATE


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_the_number_of_buckets_on_the_device_changes_nothing(
    slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apdm_cli.personalization.streamed_adamw.SLOTS", slots)
    plain, other = weights(CPU), weights(CPU)
    train(ordinary(plain), range(3))
    train(streamed(other), range(3))
    assert equal(other, plain)
