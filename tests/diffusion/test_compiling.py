"""Compiled forwards: the same numbers but for rounding, and modules are left as they were."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import nn
from torch._dynamo.exc import TorchDynamoException

from apdm_cli.diffusion import compiling
from apdm_cli.diffusion.compiling import compiled_forwards, compiling_problem, not_compiled
from apdm_cli.diffusion.condition import Condition
from apdm_cli.diffusion.recording import LAUNCHED, Recorder
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
        compile_forward(compiled, None)
        compile_forward(other, None)
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
        compile_forward(plain, None)
        assert not is_compiled(plain)
    with compiled_forwards(False, CPU) as compile_forward:
        compile_forward(plain, None)
        assert not is_compiled(plain)


class Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + nn.functional.silu(self.inner(hidden))


class Layered(nn.Module):
    """As diffusers' transformers, it names what repeats."""

    _repeated_blocks = ("Layer",)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(Layer(6), Layer(6), nn.Linear(6, 4), Layer(4))
        with torch.no_grad():
            for number, weight in enumerate(self.parameters()):
                weight.copy_(toys.random(*weight.shape, seed=number))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.layers(hidden)
        return answer


def answer(
    network: nn.Module, noisy: torch.Tensor, timesteps: torch.Tensor, condition: Condition
) -> torch.Tensor:
    found: torch.Tensor = network(noisy)
    return found


@pytest.mark.skipif(compiling_problem("cpu") is not None, reason="no compiler here")
def test_what_is_recorded_is_compiled_layer_by_layer() -> None:
    recorder, plain = Recorder(answer, torch.float32), Layered()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with compiled_forwards(True, CPU) as compile_forward:
        network = copy.deepcopy(plain)
        compile_forward(network, recorder)
        assert not is_compiled(network)
        for count in (2, 3):
            hidden = toys.random(count, 6, seed=count)
            for _ in range(LAUNCHED + 1):
                plain.zero_grad()
                network.zero_grad()
                recorder(
                    network, hidden, hidden, Condition({"text": hidden})
                ).square().sum().backward()
                plain(hidden).square().sum().backward()
            for mine, theirs in zip(network.parameters(), plain.parameters(), strict=True):
                assert mine.grad is not None and theirs.grad is not None
                assert torch.allclose(mine.grad, theirs.grad, rtol=1e-5, atol=1e-5)
    # Two widths, and the first layer, whose input has no gradient; others, and batches of another
    # size, share theirs.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 3


def test_what_cannot_be_compiled_is_recorded_as_it_is() -> None:
    def fails(network: nn.Module) -> None:
        raise TorchDynamoException("no such instruction")

    called: list[nn.Module] = []

    def noted(network: nn.Module, *given: Any) -> torch.Tensor:
        called.append(network)
        return answer(network, *given)

    recorder, network = Recorder(noted, torch.float32), Layered()
    recorder.compile_layers = fails
    hidden = toys.random(2, 6)
    with pytest.warns(UserWarning, match="not compiled, which is slower: no such instruction"):
        for _ in range(LAUNCHED + 1):
            recorder(network, hidden, hidden, Condition({"text": hidden})).sum().backward()
    assert called[-1] is network
    recorder(network, hidden, hidden, Condition({"text": hidden})).sum().backward()
    assert called[-1] is not network
