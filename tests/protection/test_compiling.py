"""Compiled forwards: the same numbers but for rounding, and modules are left as they were."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from apdm_cli.protection import compiling
from apdm_cli.protection.compiling import compiled_forwards, compiling_problem, not_compiled
from tests.protection import toys

CPU = torch.device("cpu")


def module() -> nn.Module:
    made = nn.Sequential(nn.Linear(6, 16), nn.SiLU(), nn.Linear(16, 6))
    with torch.no_grad():
        for number, weight in enumerate(made.parameters()):
            weight.copy_(toys.random(*weight.shape, seed=number))
    return made


def is_compiled(module: nn.Module) -> bool:
    return module._compiled_call_impl is not None


@pytest.mark.skipif(compiling_problem("cpu") is not None, reason="no compiler here")
def test_compiled_modules_compute_the_same_and_are_left_as_they_were() -> None:
    plain = module()
    numbers = toys.random(5, 6)
    with compiled_forwards(True, CPU) as compile_forward:
        compiled, other = copy.deepcopy(plain), copy.deepcopy(plain)
        compile_forward(compiled)
        compile_forward(other)
        with torch.no_grad():
            for weight in other.parameters():
                weight.mul_(2)
        for mine in (compiled, other):
            assert is_compiled(mine)
            eager = copy.deepcopy(mine)  # a copy is not compiled
            assert not is_compiled(eager)
            eager(numbers).square().sum().backward()
            mine(numbers).square().sum().backward()
            for first, second in zip(mine.parameters(), eager.parameters(), strict=True):
                assert first.grad is not None and second.grad is not None
                assert torch.allclose(first.grad, second.grad, rtol=1e-5, atol=1e-5)
        with not_compiled():
            assert torch.equal(compiled(numbers), plain(numbers))
        assert list(compiled.state_dict()) == list(plain.state_dict())
    assert not is_compiled(compiled)
    assert torch.equal(compiled(numbers), plain(numbers))


def test_without_a_compiler_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "compiling_problem", lambda device: "there is none")
    plain = module()
    with compiled_forwards(True, CPU) as compile_forward:
        compile_forward(plain)
        assert not is_compiled(plain)
    with compiled_forwards(False, CPU) as compile_forward:
        compile_forward(plain)
        assert not is_compiled(plain)
