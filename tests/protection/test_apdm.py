"""What APDM says of a run, and counts before one."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from apdm_cli.extension.manager import attacks, build_plugin_manager
from apdm_cli.extension.protection import Kind
from apdm_protections.apdm import APDM
from tests.protection import toys

SHARES = {"dreambooth": 1.0, "lora": 0.1, "dreambooth-text": 1.5}  # of θ's weights


def bench(others: int = 0, subjects: int = 1) -> Any:
    """Everything in memory: weights, gradient and two moments, of 8 bits where that is asked."""
    return SimpleNamespace(
        attacks=attacks(build_plugin_manager()),
        others=(None,) * others,
        each=(None,) * subjects,
        reference_copies=1.0,
        trained_copies=lambda kind: _copies(1.0, kind),
        optimizer_copies=_copies,
        trained_share=_share,
        theta_waits=False,
    )


def _copies(share: float, kind: str = "adamw") -> float:
    return share * (2.5 if kind == "adamw8bit" else 4)


def _share(kind: Kind) -> float:
    return SHARES[kind.attack.name]


def copies(**settings: Any) -> float:
    return copies_of(1, settings)


def copies_of(subjects: int, settings: dict[str, Any]) -> float:
    taught = 1 if "others" in settings else 0
    return APDM().memory_copies(bench(taught, subjects), toys.settings(**settings))


# θ, its gradient, its two moments, and φ.
ALONE = 5.0


def test_an_attacker_who_starts_again_is_one_more_training() -> None:
    restart = {"kind": "restart"}
    assert copies(attackers=restart, steps_inner=0) == ALONE
    assert copies(attackers=restart, steps_inner=3) == ALONE + 4
    lora = {"attack": "lora"}
    assert copies(attackers=restart, steps_inner=3, path=lora) == pytest.approx(ALONE + 0.4)


def test_beside_a_card_the_gradient_of_an_attacker_has_the_place_of_theta() -> None:
    crowded = bench()
    crowded.theta_waits = True
    for attack, less in (("dreambooth", 1.0), ("dreambooth-text", 1.0), ("lora", 0.1)):
        settings = {"attackers": {"kind": "restart"}, "steps_inner": 3, "path": {"attack": attack}}
        there = APDM().memory_copies(crowded, toys.settings(**settings))
        assert copies(**settings) - there == pytest.approx(less)


def test_attackers_that_persist_keep_weights_and_moments_and_one_has_a_gradient() -> None:
    crew = {"kind": "persistent", "count": 3}
    assert copies(attackers=crew) == ALONE + 3 * 3 + 1
    # Whoever of the pool is the largest decides: attackers become another kind when they age.
    pool = [{"attack": "lora"}, {"attack": "dreambooth-text"}]
    assert copies(attackers={**crew, "pool": pool}) == ALONE + 1.5 * (3 * 3 + 1)


def test_every_subject_has_attackers_of_its_own() -> None:
    crew = {"kind": "persistent", "count": 3}
    assert copies_of(2, {"attackers": crew}) == ALONE + 2 * 3 * 3 + 1
    assert copies_of(2, {"attackers": {"kind": "restart"}, "steps_inner": 3}) == ALONE + 2 * 3 + 1


def test_others_who_are_taught_and_an_average_take_memory_too() -> None:
    crew = {"kind": "persistent", "count": 3}
    assert copies(attackers=crew, others={"count": 2}) == ALONE + (3 + 2) * 3 + 1
    for average in ({"average": 0.9}, {"average_last": 0.5}):
        assert copies(attackers=crew, **average) == copies(attackers=crew) + 1


def test_eight_bits_are_counted_for_everybody() -> None:
    found = copies(attackers={"kind": "restart"}, steps_inner=3, optimizer="adamw8bit")
    assert found == 1 + 2.5 + 2.5


@pytest.mark.parametrize(
    ("inner", "every", "short", "times"), [(20, 5, 5, 4.0), (20, 20, 20, 1.0), (0, 20, 0, 1.0)]
)
def test_a_shortened_step_has_one_protective_gradient(
    inner: int, every: int, short: int, times: float
) -> None:
    config = toys.settings(steps_inner=inner, protect_every=every)
    shortened, found = APDM().shortened(config)
    assert (shortened.steps_inner, found) == (short, times)
    assert shortened == config.model_copy(update={"steps_inner": short})


def test_losses_go_through_every_attacker_and_through_theta_where_it_is_asked() -> None:
    def losses(**settings: Any) -> list[tuple[int, ...]]:
        return [tuple(found) for found in APDM().losses(toys.settings(**settings)).values()]

    assert losses(batch_size=2, steps_inner=0) == [(5,)]
    assert losses(batch_size=2) == [(2, 5)]
    assert losses(path={"batch_size": 3, "prior_weight": 0.0}) == [(3, 3)]
    at_start = {"evaluated_at": "start", "batch_size": 4}
    assert losses(preservation=at_start) == [(2, 2), (4,)]
    assert losses(preservation=at_start, margin={"at_start": 1.0, "at_start_pairs": 3}) == [
        (2, 2),
        (10,),
    ]
    crew = {"kind": "persistent", "count": 2}
    assert losses(attackers=crew, others={"count": 1, "batch_size": 4}) == [(2, 3), (2, 3), (2, 4)]


def test_the_result_speaks_of_factors_or_of_sums() -> None:
    summary = {"negative_margin": math.log(2.5), "positive_margin": math.log(1.25)}
    relative = APDM().result(summary, toys.settings(margin={"kind": "relative"}))
    assert "on the photos is 2.50 times the original model's (r⁻)" in relative
    assert "on class pictures 1.25 times (r⁺)" in relative
    absolute = APDM().result(
        {"negative_margin": 1.234, "positive_margin": -0.01},
        toys.settings(margin={"kind": "absolute"}),
    )
    assert absolute == (
        "the error on the photos rose by 1.23 per element (r⁻), on class pictures by -0.01 (r⁺)"
    )
