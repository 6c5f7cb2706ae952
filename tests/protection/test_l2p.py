"""Learning-to-Protect against loops written out in plain PyTorch."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid

from apdm_cli.personalization.loop import NonFiniteLoss
from tests.protection import toys


def plain_error(unet: Any, draw: Any, condition: Any) -> Any:
    """The squared error for noise prediction, from nothing but the schedule's numbers."""
    kept = toys.schedule().alphas_cumprod[draw.timesteps].view(-1, 1, 1, 1)
    noisy = kept.sqrt() * draw.latents + (1 - kept).sqrt() * draw.noise
    return (
        unet(noisy, draw.timesteps, encoder_hidden_states=condition["text"]).sample - draw.noise
    ) ** 2


@pytest.mark.parametrize("with_personalization", [False, True])
def test_outer_gradient_is_the_sum_over_the_path(with_personalization: bool) -> None:
    start = toys.denoiser()
    original = copy.deepcopy(start.network)
    chosen = toys.settings(include_personalization_gradient=with_personalization)
    loop = toys.bilevel(start, chosen)
    photos = toys.record(toys.path(loop).loss.photos, "draw")
    generic = toys.record(toys.path(loop).loss.class_pictures, "draw")
    pairs = toys.record(loop.objective.pairs, "draw")
    kept = toys.record(loop.objective.preservation, "draw")
    next(loop.iterate())

    c_per, c_pr = toys.condition(toys.PERSONAL), toys.condition(toys.CLASS)
    path = copy.deepcopy(original)
    adam = torch.optim.AdamW(path.parameters(), lr=1e-3, weight_decay=1e-2)
    total = torch.zeros_like(toys.weights(path))
    for i in range(3):
        adam.zero_grad()
        personal = plain_error(path, photos[i], c_per).mean()
        (personal + plain_error(path, generic[i], c_pr).mean()).backward()
        adam.step()
        if with_personalization:
            total += toys.gradients(path)
        adam.zero_grad()
        positive, negative = pairs[i].positive, pairs[i].negative
        r_positive = plain_error(path, positive, c_per) - plain_error(original, positive, c_per)
        r_negative = plain_error(path, negative, c_per) - plain_error(original, negative, c_per)
        dpo = -logsigmoid(-(r_positive - r_negative)).mean()
        (dpo + plain_error(path, kept[i].draw, c_pr).mean()).backward()
        total += toys.gradients(path)

    assert total.abs().max() > 1e-3
    assert torch.allclose(toys.gradients(start.network), total, rtol=1e-5, atol=1e-6)


def test_without_path_a_step_is_plain_adamw_at_theta() -> None:
    start = toys.denoiser()
    original = copy.deepcopy(start.network)
    loop = toys.bilevel(start, toys.settings(steps_inner=0))
    pairs = toys.record(loop.objective.pairs, "draw")
    kept = toys.record(loop.objective.preservation, "draw")
    plain = copy.deepcopy(original)
    adam = torch.optim.AdamW(plain.parameters(), lr=1e-3, weight_decay=1e-2)
    c_per, c_pr = toys.condition(toys.PERSONAL), toys.condition(toys.CLASS)
    for i, _ in enumerate(loop.iterate()):
        adam.zero_grad()
        positive, negative = pairs[i].positive, pairs[i].negative
        r_positive = plain_error(plain, positive, c_per) - plain_error(original, positive, c_per)
        r_negative = plain_error(plain, negative, c_per) - plain_error(original, negative, c_per)
        dpo = -logsigmoid(-(r_positive - r_negative)).mean()
        (dpo + plain_error(plain, kept[i].draw, c_pr).mean()).backward()
        gradient = toys.gradients(plain)
        assert torch.allclose(toys.gradients(start.network), gradient, rtol=1e-5, atol=1e-6)
        # AdamW divides by the gradient's size: the step is compared with the very same one.
        for weight, own in zip(plain.parameters(), start.network.parameters(), strict=True):
            weight.grad = None if own.grad is None else own.grad.clone()
        adam.step()
        assert torch.allclose(toys.weights(start.network), toys.weights(plain), atol=1e-7)


def test_theta_does_not_move_during_the_path() -> None:
    start = toys.denoiser()
    before = toys.weights(start.network)
    loop = toys.bilevel(start, toys.settings())
    loop._protective_gradients()
    assert torch.equal(toys.weights(start.network), before)
    assert not torch.equal(toys.weights(toys.path(loop).denoiser.network), before)


def test_every_outer_step_starts_a_fresh_path_from_theta() -> None:
    start = toys.denoiser()
    loop = toys.bilevel(start, toys.settings())
    places = [weight.data_ptr() for weight in toys.path(loop).parameters]
    for _ in loop.iterate():
        pass
    toys.path(loop).restart()
    path = toys.path(loop).denoiser.network
    assert torch.equal(toys.weights(path), toys.weights(start.network))
    states = [
        value for state in toys.path(loop).optimizer.state.values() for value in state.values()
    ]
    assert states and all(not value.any() for value in states)
    assert [weight.data_ptr() for weight in toys.path(loop).parameters] == places


@pytest.mark.parametrize(("every", "evaluations"), [(1, 4), (2, 2), (3, 1), (4, 1)])
def test_protect_every_takes_fewer_protective_gradients(every: int, evaluations: int) -> None:
    loop = toys.bilevel(toys.denoiser(), toys.settings(steps_inner=4, protect_every=every))
    pairs = toys.record(loop.objective.pairs, "draw")
    photos = toys.record(toys.path(loop).loss.photos, "draw")
    next(loop.iterate())
    assert len(pairs) == evaluations
    assert len(photos) == 4


def test_preservation_at_start_is_taken_once_at_theta() -> None:
    start = toys.denoiser()
    original = copy.deepcopy(start.network)
    changes = {"evaluated_at": "start", "weight": 2.0}
    loop = toys.bilevel(start, toys.settings(preservation=changes))
    kept = toys.record(loop.objective.preservation, "draw")
    loop._protective_gradients()
    with_it = toys.gradients(start.network).clone()
    assert len(kept) == 1

    other = toys.denoiser()
    without = toys.bilevel(other, toys.settings(preservation={**changes, "weight": 0.0}))
    without._protective_gradients()
    # weight 2, three protective gradients
    (2.0 * 3 * plain_error(original, kept[0].draw, toys.condition(toys.CLASS)).mean()).backward()
    expected = toys.gradients(other.network) + toys.gradients(original)
    assert torch.allclose(with_it, expected, rtol=1e-5, atol=1e-6)


def test_preservation_at_both_is_the_sum_of_the_two() -> None:
    def gradient(**changes: Any) -> torch.Tensor:
        start = toys.denoiser()
        loop = toys.bilevel(start, toys.settings(steps_inner=1, preservation=changes))
        loop._protective_gradients()
        return toys.gradients(start.network).clone()

    nothing, path = gradient(weight=0.0), gradient(evaluated_at="path")
    start = toys.denoiser()
    loop = toys.bilevel(start, toys.settings(steps_inner=1, preservation={"evaluated_at": "both"}))
    kept = toys.record(loop.objective.preservation, "draw")
    original = copy.deepcopy(start.network)
    loop._protective_gradients()
    assert len(kept) == 2, "one at θ′, one at θ"
    plain_error(original, kept[1].draw, toys.condition(toys.CLASS)).mean().backward()
    assert not torch.allclose(path, nothing)
    expected = path + toys.gradients(original)
    assert torch.allclose(toys.gradients(start.network), expected, rtol=1e-5, atol=1e-6)


def test_a_path_clips_and_decays_as_asked() -> None:
    start = toys.denoiser()
    loop = toys.bilevel(start, toys.settings(max_grad_norm=0.01))
    next(loop.iterate())
    assert toys.gradients(start.network).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_learning_rate_schedules() -> None:
    def rates(**changes: Any) -> list[float]:
        chosen = toys.settings(steps_outer=4, steps_inner=0, **changes)
        return [step.learning_rate for step in toys.bilevel(toys.denoiser(), chosen).iterate()]

    assert rates() == [1e-3] * 4
    expected = [1e-3 * (1 + math.cos(math.pi * i / 4)) / 2 for i in range(4)]
    assert rates(learning_rate_schedule="cosine") == pytest.approx(expected)


def test_one_seed_one_result_and_another_seed_another() -> None:
    def result(seed: int) -> torch.Tensor:
        start = toys.denoiser()
        for _ in toys.bilevel(start, toys.settings(), seed).iterate():
            pass
        return toys.weights(start.network)

    assert torch.equal(result(0), result(0))
    assert not torch.equal(result(0), result(1))


def test_steps_report_margins_and_drift() -> None:
    loop = toys.bilevel(toys.denoiser(), toys.settings(steps_outer=3))
    steps = list(loop.iterate())
    assert [step.index for step in steps] == [0, 1, 2]
    assert 0 < steps[0].drift < steps[2].drift < 1
    assert math.isfinite(steps[0].path_loss)
    without = next(toys.bilevel(toys.denoiser(), toys.settings(steps_inner=0)).iterate())
    assert math.isnan(without.path_loss)
    assert (without.positive_margin, without.negative_margin) == pytest.approx((0, 0), abs=1e-6)


@pytest.mark.parametrize(
    ("term", "break_it"),
    [
        ("personalization loss", lambda loop: _poison(toys.path(loop).loss.photos)),
        ("objective loss", lambda loop: _poison(loop.objective.pairs)),
        ("preservation loss", lambda loop: _poison(loop.objective.preservation.source)),
    ],
)
@pytest.mark.parametrize("evaluated_at", ["path", "start", "both"])
def test_a_loss_that_is_not_finite_is_named_and_leaves_theta_alone(
    term: str, break_it: Any, evaluated_at: str
) -> None:
    start = toys.denoiser()
    loop = toys.bilevel(start, toys.settings(preservation={"evaluated_at": evaluated_at}))
    steps = loop.iterate()
    next(steps)
    before = toys.weights(start.network)
    break_it(loop)
    with pytest.raises(NonFiniteLoss, match=f"{term} is no longer finite at step 1"):
        next(steps)
    assert torch.equal(toys.weights(start.network), before)


def test_a_gradient_that_is_not_finite_leaves_theta_alone() -> None:
    start = toys.denoiser()
    loop = toys.bilevel(start, toys.settings())
    before = toys.weights(start.network)
    hook = toys.path(loop).parameters[0].register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(NonFiniteLoss, match=r"(gradient|loss) .*at step 0"):
        next(loop.iterate())
    hook.remove()
    assert torch.equal(toys.weights(start.network), before)


def _poison(source: Any) -> None:
    """Every latent that is drawn from now on is NaN."""
    for name in ("pictures", "photos", "class_pictures"):
        if hasattr(source, name):
            getattr(source, name).mean.fill_(math.nan)
