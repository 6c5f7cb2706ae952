"""The optimizers by name, each against its own formula or torch's."""

from __future__ import annotations

import copy
import sys
import types
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from apdm_cli.errors import ApdmError
from apdm_cli.personalization.lion import Lion
from apdm_cli.personalization.optimizers import load_optimizer, make_optimizer

BETAS, DECAY, RATE, STEPS = (0.8, 0.95), 0.1, 0.02, 6


def start() -> Tensor:
    return torch.randn(3, 5, generator=torch.Generator().manual_seed(0))


def gradients() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(3, 5, generator=generator) for _ in range(STEPS)]


def trained(kind: str) -> Tensor:
    weight = nn.Parameter(start())
    optimizer = make_optimizer(kind, BETAS, DECAY)([weight], RATE)
    for gradient in gradients():
        weight.grad = gradient.clone()
        optimizer.step()
    return weight.detach()


def test_lion_is_algorithm_2_of_its_paper() -> None:
    """arXiv 2302.06675: c = β₁ m + (1 − β₁) g; θ ← θ − η (sign(c) + λ θ); m ← β₂ m + (1 − β₂) g."""
    weight, momentum = start().double(), torch.zeros(3, 5).double()
    for gradient in gradients():
        update = BETAS[0] * momentum + (1 - BETAS[0]) * gradient.double()
        weight = weight - RATE * (torch.sign(update) + DECAY * weight)
        momentum = BETAS[1] * momentum + (1 - BETAS[1]) * gradient.double()
    torch.testing.assert_close(trained("lion"), weight.float())


def test_lion_leaves_alone_what_has_no_gradient_and_goes_on_where_it_was() -> None:
    def optimizer() -> tuple[list[nn.Parameter], Lion]:
        weights = [nn.Parameter(start()), nn.Parameter(start())]
        return weights, Lion(weights, RATE, BETAS, DECAY)

    def step(weights: list[nn.Parameter], one: Lion, gradient: Tensor) -> None:
        weights[0].grad = gradient.clone()
        one.step()

    weights, whole = optimizer()
    for gradient in gradients():
        step(weights, whole, gradient)
    assert torch.equal(weights[1], start()), "decay, too, is for what is trained"
    torch.testing.assert_close(weights[0].detach(), trained("lion"))

    again, first = optimizer()
    for gradient in gradients()[:3]:
        step(again, first, gradient)
    resumed = Lion(again, RATE, BETAS, DECAY)
    load_optimizer(resumed, first.state_dict())
    for gradient in gradients()[3:]:
        step(again, resumed, gradient)
    assert torch.equal(again[0], weights[0])


@pytest.mark.parametrize("kind", ["adamw", "lion", "sgd"])
def test_moments_that_come_back_from_a_file_lie_as_their_weights_do(kind: str) -> None:
    """On a card weights are in channels_last, which a file does not keep, and moments as well."""

    def weight() -> nn.Parameter:
        made = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
        return nn.Parameter(made.to(memory_format=torch.channels_last))

    def step(one: nn.Parameter, optimizer: torch.optim.Optimizer, seed: int) -> None:
        gradient = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(seed))
        one.grad = gradient.to(memory_format=torch.channels_last)
        optimizer.step()

    whole, make = weight(), make_optimizer(kind, BETAS, DECAY)
    optimizer = make([whole], RATE)
    step(whole, optimizer, 1)
    again = nn.Parameter(whole.detach().clone())
    saved = copy.deepcopy(optimizer.state_dict())
    for values in saved["state"].values():
        values.update({k: v.contiguous() for k, v in values.items() if torch.is_tensor(v)})
    resumed = make([again], RATE)
    load_optimizer(resumed, saved)
    moments = [v for v in resumed.state[again].values() if torch.is_tensor(v) and v.dim()]
    assert moments
    assert all(moment.stride() == again.stride() for moment in moments)
    step(whole, optimizer, 2)
    step(again, resumed, 2)
    assert torch.equal(again, whole)


def test_sgd_has_momentum_and_decay() -> None:
    weight, momentum = start().double(), torch.zeros(3, 5).double()
    for gradient in gradients():
        momentum = BETAS[0] * momentum + gradient.double() + DECAY * weight
        weight = weight - RATE * momentum
    torch.testing.assert_close(trained("sgd"), weight.float())


def test_adamw_is_decoupled_and_unbiased() -> None:
    """arXiv 1711.05101, algorithm 2."""
    weight = start().double()
    first, second = torch.zeros(3, 5).double(), torch.zeros(3, 5).double()
    for step, gradient in enumerate(gradients(), 1):
        first = BETAS[0] * first + (1 - BETAS[0]) * gradient.double()
        second = BETAS[1] * second + (1 - BETAS[1]) * gradient.double().square()
        direction = first / (1 - BETAS[0] ** step)
        scale = (second / (1 - BETAS[1] ** step)).sqrt() + 1e-8
        weight = weight - RATE * (direction / scale + DECAY * weight)
    torch.testing.assert_close(trained("adamw"), weight.float(), rtol=1e-5, atol=1e-6)


def test_adafactor_keeps_rows_and_columns_instead_of_every_square() -> None:
    """arXiv 1804.04235: the point of it is its memory."""
    weight = nn.Parameter(start())
    optimizer = make_optimizer("adafactor", BETAS, DECAY)([weight], RATE)
    weight.grad = gradients()[0]
    optimizer.step()
    kept = [tuple(value.shape) for value in optimizer.state[weight].values() if value.numel() > 1]
    assert sorted(kept) == [(1, 5), (3, 1)]
    group = optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (RATE, DECAY)
    assert not torch.equal(weight, start())


def test_prodigy_is_its_package_with_the_settings_of_trainers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    package = pytest.importorskip("prodigyopt")

    def steps(optimizer: Any, weight: nn.Parameter, count: int) -> Tensor:
        for _ in range(count):
            weight.grad = weight.detach() - 3  # downhill: its steps grow as it finds the way
            optimizer.step()
        return weight.detach()

    weight = nn.Parameter(start())
    theirs = package.Prodigy(
        *([weight], 1.0, BETAS),
        d0=1e-4,
        weight_decay=DECAY,
        use_bias_correction=True,
        safeguard_warmup=True,
    )
    expected = steps(theirs, weight, 40)
    capsys.readouterr()

    def mine() -> tuple[nn.Parameter, Any]:
        weight = nn.Parameter(start())
        return weight, make_optimizer("prodigy", BETAS, DECAY, 1e-4)([weight], 1.0)

    whole, optimizer = mine()
    assert torch.equal(steps(optimizer, whole, 40), expected)
    assert not torch.equal(expected, start())
    assert capsys.readouterr().out == "", "results are printed there, as JSON for one"

    broken, first = mine()
    steps(first, broken, 25)
    assert first.param_groups[0]["d"] > first.param_groups[0]["d0"]
    resumed = make_optimizer("prodigy", BETAS, DECAY, 1e-4)([broken], 1.0)
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    assert torch.equal(steps(resumed, broken, 15), expected)


def test_prodigy_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prodigyopt", None)
    with pytest.raises(ApdmError, match="prodigyopt") as caught:
        make_optimizer("prodigy", BETAS, DECAY)
    assert "apdm[prodigy]" in caught.value.hint and "optimizer=adamw" in caught.value.hint


def test_eight_bits_need_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(ApdmError, match="bitsandbytes") as caught:
        make_optimizer("adamw8bit", BETAS, DECAY)
    assert "apdm[adam8bit]" in caught.value.hint and "optimizer=adamw" in caught.value.hint


def test_eight_bits_get_what_adamw_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    class AdamW8bit:
        def __init__(self, parameters: Any, **options: Any) -> None:
            self.parameters, self.options = parameters, options

    package, module = types.ModuleType("bitsandbytes"), types.ModuleType("bitsandbytes.optim")
    setattr(module, "AdamW8bit", AdamW8bit)  # noqa: B010
    monkeypatch.setitem(sys.modules, "bitsandbytes", package)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", module)
    weight = nn.Parameter(start())
    made: Any = make_optimizer("adamw8bit", BETAS, DECAY)([weight], RATE)
    assert made.parameters == [weight]
    assert made.options == {"lr": RATE, "betas": BETAS, "weight_decay": DECAY}
