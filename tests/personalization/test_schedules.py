"""Learning rates in the course of a training."""

from __future__ import annotations

import pytest

from apdm_attacks.dreambooth import DreamBooth
from apdm_cli.config import resolve
from apdm_cli.extension.attack import AttackConfig
from apdm_cli.personalization.schedules import scheduled


def test_constant_is_the_very_number() -> None:
    assert {scheduled(1e-4, s, schedule="constant", warm_up=0, steps=9) for s in range(20)} == {
        1e-4
    }


def test_warm_up_rises_to_the_rate_and_stays() -> None:
    rates = [scheduled(8.0, s, schedule="constant", warm_up=4, steps=10) for s in range(6)]
    assert rates == [2.0, 4.0, 6.0, 8.0, 8.0, 8.0]


def test_cosine_falls_from_the_rate_to_nothing() -> None:
    rates = [scheduled(2.0, s, schedule="cosine", warm_up=0, steps=4) for s in range(6)]
    assert rates == pytest.approx([2.0, 1 + 0.5**0.5, 1.0, 1 - 0.5**0.5, 0.0, 0.0])
    after = [scheduled(2.0, s, schedule="cosine", warm_up=2, steps=6) for s in range(6)]
    assert after == pytest.approx([1.0, 2.0, *rates[:4]])


def test_an_attack_follows_its_settings_and_knows_when_a_longer_one_differs() -> None:
    attack = DreamBooth()

    def config(**changes: object) -> AttackConfig:
        return resolve(AttackConfig, {"steps": 10, "learning_rate": 1.0}, changes)

    assert attack.learning_rate(0, config()) == 1.0
    assert attack.learning_rate(0, config(warm_up=4)) == 0.25
    assert attack.learning_rate(5, config(schedule="cosine")) == pytest.approx(0.5)
    assert attack.continues(config()) and attack.continues(config(warm_up=4))
    assert not attack.continues(config(schedule="cosine"))
