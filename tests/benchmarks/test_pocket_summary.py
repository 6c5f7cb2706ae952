"""Cuts, ratios, means and spreads of the pocket benchmarks, by hand."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from apdm_cli.protection.settings import ProtectionSettings, preset
from benchmarks import aa_test, pocket_effect, pocket_jobs, pocket_summary
from benchmarks.pocket_jobs import Person
from benchmarks.variants import ABLATIONS, VARIANTS

BASELINE = {
    "floor": 0.0, "other_floor": 0.1, "seen": [0.8, 1.0], "unseen": [0.5, 0.5], "long": [1.0, 1.0],
    "other": [0.6, 0.6],
}  # fmt: skip
RESULT = {
    "seen": [0.0, 0.36], "unseen": [0.5, 0.5], "long": [1.2, 1.2], "other": [0.5, 0.5],
    "class_distance": 12.0, "class_distance_original": 10.0, "class_same_seed": 0.9,
    "protect_seconds": 100.0,
}  # fmt: skip


def row(identity: int, **more: Any) -> dict[str, Any]:
    return {"job": {"identity": identity, "seeds": [0, 1]}, "result": {**RESULT, **more}}


def test_a_cell_by_hand() -> None:
    found = pocket_summary.cell(BASELINE, RESULT)
    assert found == pytest.approx({
        "cut_seen": 0.8, "cut_unseen": 0.0, "cut_long": -0.2, "class_distance_ratio": 1.2,
        "class_same_seed": 0.9, "other_identities_kept": 0.8, "protect_seconds": 100.0,
    })  # fmt: skip


def test_means_and_spreads() -> None:
    rows = [row(1), row(2, seen=[0.9, 0.9], class_same_seed=0.7)]
    found = pocket_summary.summary({1: BASELINE, 2: BASELINE}, rows)
    assert found["cut_seen"] == pytest.approx((0.8 + 0.0) / 2)
    assert found["spread_over_identities"]["cut_seen"] == pytest.approx(0.4)
    # Seed against the same seed: 1 and .64 for the first, -.125 and .1 for the second.
    assert found["spread_over_seeds"]["cut_seen"] == pytest.approx((0.18 + 0.1125) / 2)
    assert found["undefended"]["seen"] == pytest.approx(0.9)
    assert (found["identities"], found["seeds"]) == (2, 2)
    line = pocket_summary.table({"x": found}).splitlines()[-1]
    assert line.startswith("| x | 40% ± 40% | 0% ± 0% | -20% ± 0% | 1.20 ± 0.00 | 0.80 ± 0.10 |")


def test_the_file_has_every_cell_and_the_summary(tmp_path: Path) -> None:
    rows = [row(1)]
    means = pocket_summary.summary({1: BASELINE}, rows)
    pocket_summary.write(tmp_path / "x.json", {1: BASELINE}, rows, means)
    document = json.loads((tmp_path / "x.json").read_text())
    wanted = {*pocket_summary.MEASURES, "identities", "seeds"}
    assert wanted <= set(document["summary"])
    assert document["cells"][0]["means"]["cut_seen"] == pytest.approx(0.8)


def test_nobody_is_both_chosen_on_and_reported_on() -> None:
    from benchmarks import pocket_ablation, pocket_search

    groups = [pocket_effect.PEOPLE, pocket_ablation.PEOPLE, pocket_search.CHOOSING]
    seeds = [{s for p in people for s in (p.seed, p.other)} for people in groups]
    assert sum(map(len, seeds)) == len(set().union(*seeds))
    for people in groups:
        identities = [person.seed for person in people]
        assert len(set(identities)) == len(identities), "baselines are found by identity seed"


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_variants_are_settings(name: str) -> None:
    from apdm_cli.config import resolve

    settings = dict(VARIANTS[name])
    base = preset(settings.pop("preset", "pocket"))
    assert resolve(ProtectionSettings, base, settings).steps_outer > 0
    assert "l2p" in ABLATIONS


def test_a_job_names_weights_and_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pocket_jobs, "weights", lambda: "abc")
    job = pocket_jobs.protected_job(Person("dog", 1, 2), (0,), "x", {"beta": 2.0})
    assert (job["model"], job["class"]) == ("abc", "dog")
    assert job["settings"] == preset("pocket") | {"beta": 2.0}
    assert job["attack"]["steps"] > 0


def test_another_attack_or_protection_seed_is_another_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pocket_jobs, "weights", lambda: "abc")
    who: tuple[Person, tuple[int, ...], str, dict[str, Any]] = (Person("dog", 1, 2), (0,), "x", {})
    plain = pocket_jobs.protected_job(*who)
    faster = replace(pocket_jobs.DEMO_ATTACK, learning_rate=2e-4)
    assert pocket_jobs.protected_job(*who, faster) != plain
    assert pocket_jobs.protected_job(*who, protection_seed=1) == plain | {"protection_seed": 1}


@pytest.mark.parametrize(
    ("preset", "rate", "seed", "name"),
    [
        ("pocket", 1e-4, 0, ""),
        ("pocket-long", 1e-4, 0, "_long"),
        ("pocket", 2e-4, 1, "_rate_0.0002_protection_seed_1"),
    ],
)
def test_every_question_has_a_file_of_its_own(
    preset: str, rate: float, seed: int, name: str
) -> None:
    asked = Namespace(preset=preset, attack_rate=rate, protection_seed=seed)
    assert pocket_effect.suffix(asked) == name


def test_differences_of_equal_arms_contain_zero_and_of_far_ones_do_not() -> None:
    score, far = [0.5, 0.4, 0.6], [0.9, 0.85, 0.95]
    rows = [
        {"job": {"identity": 1}, "result": {"arms": [[score] * 3, [score] * 3]}},
        {"job": {"identity": 2}, "result": {"arms": [[score] * 3, [far] * 3]}},
    ]
    for seeds in (1, 3):
        equal, apart = aa_test.differences(rows, seeds)
        assert equal["low"] < 0 < equal["high"]
        assert apart["high"] < 0
