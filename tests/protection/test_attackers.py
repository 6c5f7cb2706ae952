"""Persistent attackers against loops written out in plain PyTorch, and how they live."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from apdm_cli.personalization.averaging import WeightAverage, exponential
from apdm_cli.personalization.optimizers import make_optimizer
from apdm_cli.protection.attackers import Life, Lives, PersistentAttackers
from apdm_cli.protection.l2p import LearningToProtect
from apdm_cli.randomness import Streams
from tests.protection import toys
from tests.protection.test_l2p import plain_error


def settings(**changes: Any) -> Any:
    base: dict[str, Any] = {
        "steps_outer": 4,
        "steps_inner": 1,
        "batch_size": 2,
        "attackers": {"kind": "persistent", "ages": [100, 100], "rates": [1.0, 1.0]},
        "preservation": {"weight": 0.0},
    }
    merged = {**base, **changes}
    merged["attackers"] = {**base["attackers"], **changes.get("attackers", {})}
    return toys.settings(**merged)


def crew(loop: LearningToProtect) -> PersistentAttackers:
    assert isinstance(loop.attackers, PersistentAttackers)
    return loop.attackers


def test_a_new_life_begins_with_a_new_prodigy() -> None:
    """What it has found of the size of its steps stands in its groups, not in its state."""
    pytest.importorskip("prodigyopt")
    one = toys.attacker(toys.denoiser(), settings(), Streams(0))
    one.optimizer = make_optimizer("prodigy", (0.9, 0.999), 0.1)(one.parameters, 1.0)
    (fresh,) = (dict(group) for group in one.optimizer.param_groups)
    list(one.steps(2))
    (group,) = one.optimizer.param_groups
    assert group["k"] == 2 and one.optimizer.state
    group["d"] = group["d_max"] = 0.5  # as after many more
    one.restart()
    for name in ("d", "d_max", "d_numerator", "k", "weight_decay"):
        assert group[name] == fresh[name], name
    assert not one.optimizer.state and one.age == 0


def log_error(unet: Any, draw: Any, condition: Any) -> Tensor:
    rows = condition.expand(len(draw.latents))
    return plain_error(unet, draw, rows).mean(dim=(1, 2, 3)).log()


def test_an_attacker_goes_on_where_it_was_while_theta_moves() -> None:
    """Two outer steps by hand: θ′ = θ + δ, its AdamW never restarted, θ's gradient taken there."""
    start = toys.denoiser()
    original = copy.deepcopy(start.network)
    loop = toys.bilevel(start, settings(beta=2.0, margin={"kind": "relative"}))
    losses = record_losses(loop)
    pairs = toys.record(loop.objective.pairs, "draw")
    for _ in loop.prepare():
        pass
    c_per, c_pr = toys.condition(toys.PERSONAL), toys.condition(toys.CLASS)
    theta, attacked = copy.deepcopy(original), copy.deepcopy(original)
    adam = torch.optim.AdamW(attacked.parameters(), lr=1e-3, weight_decay=1e-2)
    for index, _ in enumerate(loop.iterate()):
        adam.zero_grad()
        photos, generic = losses[0][index], losses[1][index]
        personal = plain_error(attacked, photos, c_per).mean()
        (personal + plain_error(attacked, generic, c_pr).mean()).backward()
        adam.step()
        adam.zero_grad()
        r = {
            name: log_error(attacked, draw, c_per) - log_error(original, draw, c_per).detach()
            for name, draw in vars(pairs[index]).items()
        }
        softplus = torch.nn.functional.softplus(2.0 * (r["positive"] - r["negative"]))
        (softplus.mean() / 2.0).backward()
        mine, theirs = toys.gradients(start.network), toys.gradients(attacked)
        assert mine.norm() > 0
        assert torch.allclose(mine, theirs, rtol=2e-3, atol=1e-4 * theirs.abs().max().item())
        # θ moved by the loop's own step: so does what lies on top of it.
        with torch.no_grad():
            moved = zip(
                attacked.parameters(), theta.parameters(), start.network.parameters(), strict=True
            )
            for on_top, before, now in moved:
                on_top.add_(now - before)
                before.copy_(now)


def record_losses(loop: LearningToProtect) -> list[list[Any]]:
    """Photos and class pictures of every attack step of the next life."""
    drawn: list[list[Any]] = [[], []]
    born = crew(loop).born

    def recorded(slot: int, life: Life) -> Any:
        attacker: Any = born(slot, life)
        drawn[0] = toys.record(attacker.loss.photos, "draw")
        drawn[1] = toys.record(attacker.loss.class_pictures, "draw")
        return attacker

    crew(loop).born = recorded
    return drawn


def test_at_rest_the_weights_hold_the_displacement() -> None:
    start = toys.denoiser()
    loop = toys.bilevel(start, settings(steps_outer=1))
    with crew(loop).turn(0) as attacker:
        for _ in attacker.steps(2):
            pass
        at_work = toys.weights(attacker.denoiser.network)
    at_rest = toys.weights(attacker.denoiser.network)
    theta = toys.weights(start.network)
    assert 0 < at_rest.norm() < 0.1 * theta.norm()
    assert torch.allclose(theta + at_rest, at_work, atol=1e-6)
    assert all(weight.grad is None for weight in attacker.parameters)


def test_an_attacker_past_its_bound_is_born_anew() -> None:
    loop = toys.bilevel(toys.denoiser(), settings(steps_outer=7, attackers={"ages": [3, 3]}))
    assert [step.path_age for step in loop.iterate()] == [1, 2, 3, 1, 2, 3, 1]
    with crew(loop).turn(0) as attacker:
        assert attacker.optimizer.state, "in the middle of a life"
    with crew(loop).turn(0) as attacker:
        for _ in attacker.steps(2):
            pass
    with crew(loop).turn(0) as newborn:
        assert newborn.age == 0 and not newborn.optimizer.state
        assert torch.equal(toys.weights(newborn.denoiser.network), toys.weights(loop.start.network))


def test_attackers_take_turns_and_start_at_different_ages() -> None:
    loop = toys.bilevel(
        toys.denoiser(), settings(steps_outer=8, attackers={"count": 4, "ages": [8, 8]})
    )
    walked = sum(1 for _ in loop.prepare())
    assert walked == 0 + 2 + 4 + 6
    assert [step.path_age for step in loop.iterate()] == [1, 3, 5, 7, 2, 4, 6, 8]
    together = toys.bilevel(
        toys.denoiser(),
        settings(steps_outer=4, attackers={"count": 4, "ages": [8, 8], "staggered": False}),
    )
    assert not list(together.prepare())
    assert [step.path_age for step in together.iterate()] == [1, 1, 1, 1]


def test_lives_are_log_uniform_between_their_bounds() -> None:
    lives = Lives([1.0, 3.0], (100, 400), (1.0, 4.0), 5, Streams(0), "lives")
    drawn = [lives.draw() for _ in range(2000)]
    bounds = torch.tensor([float(life.bound) for life in drawn])
    rates = torch.tensor([life.rate for life in drawn])
    assert bounds.min() >= 100 and bounds.max() <= 400
    assert bounds.log().mean().exp().item() == pytest.approx(200, rel=0.05)
    assert rates.log().mean().exp().item() == pytest.approx(2, rel=0.05)
    assert sum(life.kind for life in drawn) / 2000 == pytest.approx(0.75, abs=0.04)
    assert all(sorted(life.order) == [0, 1, 2, 3, 4] for life in drawn)
    assert len({life.order for life in drawn}) > 50


def test_a_life_has_its_own_rate() -> None:
    loop = toys.bilevel(toys.denoiser(), settings())
    attacker: Any = None
    for rate in (1.0, 2.0):
        born = toys.attacker(loop.start, loop.settings, Streams(0), rate=rate)
        for step in born.steps(1):
            attacker = step
        assert attacker.learning_rate == pytest.approx(rate * 1e-3)


@pytest.mark.parametrize("inner", [1, 3])
def test_the_gradient_at_theta_has_its_own_weight_and_pairs(inner: int) -> None:
    """½ L_rel at θ once, however many gradients there are at θ′; the preservation weighs as all."""
    start = toys.denoiser()
    original = copy.deepcopy(start.network)
    changes = {"margin": {"kind": "relative", "at_start": 0.5, "at_start_pairs": 3}}
    kept = {"evaluated_at": "start", "weight": 2.0}
    loop = toys.bilevel(start, settings(steps_inner=inner, **changes, preservation=kept))
    pairs = toys.record(loop.objective.pairs, "draw")
    preserved = toys.record(loop.objective.preservation, "draw")
    loop._protective_gradients()
    assert [len(drawn.positive.latents) for drawn in pairs] == [2] * inner + [3]
    assert len(preserved) == 1

    other = toys.denoiser()
    without = toys.bilevel(other, settings(steps_inner=inner, margin={"kind": "relative"}))
    without._protective_gradients()
    c_per, c_pr = toys.condition(toys.PERSONAL), toys.condition(toys.CLASS)
    # θ = φ still: r = 0, and the gradient of softplus(r⁺ − r⁻) is half of that of r⁺ − r⁻.
    drawn = pairs[-1]
    difference = log_error(original, drawn.positive, c_per)
    difference = difference - log_error(original, drawn.negative, c_per)
    expected = 0.5 * 0.5 * difference.mean()
    (expected + 2.0 * inner * plain_error(original, preserved[0].draw, c_pr).mean()).backward()
    total = toys.gradients(other.network) + toys.gradients(original)
    assert torch.allclose(toys.gradients(start.network), total, rtol=1e-3, atol=1e-5)


def test_others_are_taught_where_they_learn() -> None:
    start = toys.denoiser()
    chosen = settings(others={"count": 2, "every": 2, "weight": 3.0, "ages": [50, 50]})
    loop = toys.bilevel(start, chosen)
    for _ in loop.prepare():
        pass
    values = [step.others for step in loop.iterate()]
    assert [math.isnan(value) for value in values] == [True, False, True, False]

    loop.outer_optimizer.zero_grad()
    learners: Any = loop.others
    drawn: list[Any] = []
    for _, learner in learners._alive:
        drawn.append(toys.record(learner.pictures, "draw"))
    loop._teach_others(1)
    mine = toys.gradients(start.network).clone()
    learner = learners._alive[0][1]
    learner.follow()  # where it was when the gradient was taken
    learner.denoiser.network.zero_grad()
    (picture,) = drawn[0]
    c_per = toys.condition(toys.PERSONAL)
    (3.0 * log_error(learner.denoiser.network, picture, c_per).mean()).backward()
    expected = toys.gradients(learner.denoiser.network)
    assert expected.norm() > 0
    assert torch.allclose(mine, expected, rtol=1e-3, atol=1e-5)


def test_a_learner_with_a_word_of_its_own_is_asked_under_it() -> None:
    start = toys.denoiser()
    original = copy.deepcopy(start.network)
    loop = toys.bilevel(start, settings(others={"count": 1, "every": 1, "ages": [50, 50]}))
    for _ in loop.prepare():
        pass
    learners: Any = loop.others
    ((_, learner),) = learners._alive
    own = toys.condition(9)
    learner._personal = lambda: own
    drawn = toys.record(learner.pictures, "draw")
    value = loop._teach_others(0)
    learner.follow()
    (picture,) = drawn
    learnt = log_error(learner.denoiser.network, picture, own)
    known = log_error(original, picture, toys.condition(toys.PERSONAL))
    assert value == pytest.approx((learnt - known).mean().item(), rel=1e-3)


def test_teaching_lowers_the_error_on_others() -> None:
    def error(weight: float) -> float:
        start = toys.denoiser()
        others = {"count": 1, "every": 1, "weight": weight, "ages": [500, 500]}
        loop = toys.bilevel(start, settings(steps_outer=40, others=others))
        values = [step.others for step in loop.iterate()]
        return sum(values[-10:]) / 10

    assert error(10.0) < error(0.0)


def test_the_result_is_an_exponential_average_of_theta() -> None:
    start = toys.denoiser()
    loop = toys.bilevel(start, settings(average=0.9))
    weights = list(start.network.parameters())
    expected = WeightAverage([weight.detach().clone() for weight in weights], exponential(0.9))
    for step in loop.iterate():
        expected.parameters = [weight.detach().clone() for weight in weights]
        expected.update(step.index)
    assert all(map(torch.equal, weights, expected.shadow))


def test_the_result_is_the_mean_of_theta_over_the_last_steps() -> None:
    start = toys.denoiser()
    loop = toys.bilevel(start, settings(steps_outer=7, average_last=0.4))  # the last three
    weights = list(start.network.parameters())
    passed = [[weight.detach().clone() for weight in weights] for _ in loop.iterate()]
    means = [torch.stack(values).mean(0) for values in zip(*passed[-3:], strict=True)]
    for weight, mean in zip(weights, means, strict=True):
        torch.testing.assert_close(weight, mean)
    assert any(not torch.equal(*pair) for pair in zip(weights, passed[-1], strict=True))


@pytest.mark.parametrize(
    ("stop", "average"),
    [(1, {"average": 0.5}), (2, {"average_last": 0.8}), (3, {"average": 0.5})],
)
def test_a_loop_goes_on_bit_identically(stop: int, average: dict[str, float]) -> None:
    chosen = settings(
        steps_outer=5,
        **average,
        attackers={"count": 2, "ages": [2, 4], "rates": [1.0, 3.0]},
        others={"count": 1, "every": 2, "ages": [1, 3]},
        preservation={"weight": 1.0},
    )

    def run(first: int, state: Any = None, until: int = 5) -> tuple[Tensor, Any]:
        start = toys.denoiser()
        streams = Streams(0)
        loop = toys.bilevel(start, chosen, streams=streams)
        if state is None:
            for _ in loop.prepare():
                pass
        else:
            start.network.load_state_dict(state["weights"])
            loop.load_state_dict(state["loop"])
            streams.load_state_dict(state["streams"])
        for step in loop.iterate(first):
            if step.index + 1 == until < 5:
                break
        kept = {
            "weights": start.network.state_dict(),
            "loop": loop.state_dict(),
            "streams": streams.state_dict(),
        }
        return toys.weights(start.network), copy.deepcopy(kept)

    whole, _ = run(0)
    _, half = run(0, until=stop)
    rest, _ = run(stop, half)
    assert torch.equal(whole, rest)
