"""Tensors in mapped files behave like others."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from apdm_cli.errors import ApdmError
from apdm_cli.personalization.optimizers import adamw, load_optimizer
from apdm_cli.protection import low_memory

LARGE = (low_memory.SMALLEST // 64, 64)


def module() -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Linear(LARGE[1], LARGE[0])


def train(optimizer: torch.optim.Optimizer, model: nn.Module, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        model(torch.full((1, LARGE[1]), 0.1 * step)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("shape", [LARGE, (3, 5)])
def test_mapped_zeros_are_zeros_that_leave_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made = low_memory.mapped_zeros(nn.Parameter(torch.ones(shape)))
    assert made.shape == shape and made.dtype == torch.float32
    assert not made.any() and not made.requires_grad
    made.fill_(2.0)
    assert made.sum() == 2.0 * made.numel()
    assert list(tmp_path.iterdir()) == []


def test_no_room_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    with pytest.raises(ApdmError, match="TMPDIR"):
        low_memory.mapped_zeros(torch.zeros(LARGE))


def test_mapped_weights_compute_the_same() -> None:
    model = module()
    moved = copy.deepcopy(model)
    low_memory.map_weights(moved)
    probe = torch.ones(2, LARGE[1])
    assert torch.equal(moved(probe), model(probe))
    assert moved.weight.data_ptr() != model.weight.data_ptr()


def test_mapped_moments_train_the_same_and_survive_a_reload() -> None:
    make = adamw("adamw", (0.9, 0.999), 1e-2)
    plain_model, mapped_model = module(), module()
    plain = make(list(plain_model.parameters()), 1e-3)
    mapped = low_memory.with_mapped_moments(make)(list(mapped_model.parameters()), 1e-3)
    train(plain, plain_model, range(3))
    train(mapped, mapped_model, range(3))

    saved = copy.deepcopy(mapped.state_dict())
    fresh = low_memory.with_mapped_moments(make)(list(mapped_model.parameters()), 1e-3)
    moment = fresh.state[next(mapped_model.parameters())]["exp_avg"]
    load_optimizer(fresh, saved)
    assert fresh.state[next(mapped_model.parameters())]["exp_avg"] is moment

    train(plain, plain_model, range(3, 6))
    train(fresh, mapped_model, range(3, 6))
    for one, other in zip(plain_model.parameters(), mapped_model.parameters(), strict=True):
        assert torch.equal(one, other)
