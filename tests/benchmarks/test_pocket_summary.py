"""Cuts, work factors, ratios, means and spreads of the pocket benchmarks, by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks import aa_test, attack_table, pocket_effect, pocket_summary, trials
from benchmarks.ground import Ground, Person, Question, whole_settings
from benchmarks.variants import ABLATIONS, VARIANTS
from benchmarks.work_factor import Bounded, geometric_mean, work_factor

BUDGETS = {0.5: 25, 1.0: 50, 2.0: 100, 3.0: 150}
LEARNT = (0.2, 0.8, 0.9, 1.0)  # half-way (.5) is half of the way from 25 to 50 steps, in logarithms
ORIGINAL = {"seen": LEARNT, "other": LEARNT, "unseen": (0.5,), "rate2": (0.9,)}
# Half-way is reached in the middle between 100 and 150 steps.
PROTECTED = {"seen": (0.0, 0.2, 0.4, 0.6), "other": LEARNT, "unseen": (0.5,), "rate2": (0.45,)}


def scored(value: float, metric: str = "dino") -> dict[str, Any]:
    return {"metric": metric, "value": value, "per_picture": [value]}


def rows_of(arm: str, values: dict[str, tuple[float, ...]], seeds: int = 2) -> list[dict[str, Any]]:
    found = []
    for question, curve in values.items():
        budgets = dict(list(BUDGETS.items())[1:2]) if len(curve) == 1 else BUDGETS
        for seed in range(seeds):
            found += [
                {
                    "question": question,
                    "role": "neighbour" if question == "other" else "attack",
                    "arm": arm,
                    "seed": seed,
                    "budget": budget,
                    "steps": steps,
                    "topic": "person-2" if question == "other" else "",
                    "scores": [scored(value)],
                }
                for (budget, steps), value in zip(budgets.items(), curve, strict=True)
            ]
    return found


def utility(arm: str, distance: float, same_seed: float | None = None) -> dict[str, Any]:
    scores = [scored(distance, "fid")]
    scores += [] if same_seed is None else [scored(same_seed, "same-seed")]
    about = {"question": None, "role": "utility", "topic": "class pictures", "budget": 1.0}
    return {**about, "arm": arm, "seed": 0, "steps": None, "scores": scores}


def result(protected: dict[str, tuple[float, ...]] = PROTECTED, **more: Any) -> dict[str, Any]:
    return {
        "floor": 0.0,
        "ceiling": 1.0,
        "others": {"person-2": {"floor": 0.0, "ceiling": 1.0, "likeness": 0.1}},
        "protect_seconds": 100.0,
        "rows": [
            *rows_of("original", ORIGINAL),
            *rows_of("protected", protected),
            utility("original", 10.0),
            utility("protected", 12.0, 0.9),
        ],
        **more,
    }


def row(identity: int, noun: str = "person", seed: int = 0, **more: Any) -> dict[str, Any]:
    job = {
        "class": noun,
        "identity": identity,
        "protection_seed": seed,
        "variant": "x",
        "settings": {},
        "model": "m",
        "attack": {},
    }
    return {"job": job, "result": result(**more)}


def test_a_cell_by_hand() -> None:
    found = pocket_summary.cell(result())
    factor, others = found.pop("work_factor"), found.pop("other_work_factor")
    assert (factor.value, factor.bound) == (pytest.approx(math.sqrt(100 * 150 / (25 * 50))), "")
    assert (others.value, others.bound) == (pytest.approx(1.0), "")
    assert found == pytest.approx({
        "cut_seen": 0.75, "cut_unseen": 0.0, "cut_long": 0.4, "cut_rate2": 0.5,
        "class_distance_ratio": 1.2, "class_same_seed": 0.9, "other_identities_kept": 1.0,
        "protect_seconds": 100.0,
    })  # fmt: skip


def test_everybody_else_counts_once_and_is_named_with_their_likeness() -> None:
    slower = [
        {**one, "topic": "person-3"}
        for one in rows_of("protected", {"other": (0.0, 0.2, 0.4, 0.6)}, seeds=1)
    ]
    more = [{**one, "topic": "person-3"} for one in rows_of("original", {"other": LEARNT}, seeds=1)]
    bounds = {"floor": 0.0, "ceiling": 1.0}
    two = result(
        others={
            "person-2": {**bounds, "likeness": 0.1},
            "person-3": {**bounds, "likeness": 0.8},
        }
    )
    two["rows"] += [*slower, *more]
    found = pocket_summary.others(two)
    assert [one["likeness"] for one in found.values()] == [0.1, 0.8]
    assert [one["kept"] for one in found.values()] == pytest.approx([1.0, 0.2 / 0.8])
    assert pocket_summary.cell(two)["other_identities_kept"] == pytest.approx((1 + 0.25) / 2)
    summary = pocket_summary.summary([{**row(1), "result": two}])
    assert (summary["others"], summary["censored"]["other_work_factor"]["attacks"]) == (2, 3)
    lines = pocket_summary.table_of_others([{**row(1), "result": two}]).splitlines()
    assert [line.split(" | ")[1] for line in lines[2:]] == ["person-3", "person-2"]


def test_results_from_before_there_were_names_know_one_other() -> None:
    old = {**result(), "other_floor": 0.0, "other_ceiling": 1.0}
    del old["others"]
    old["rows"] = [{**one, "topic": ""} for one in old["rows"] if one["role"] != "utility"]
    assert pocket_summary.others(old)[""]["kept"] == pytest.approx(1.0)


def test_a_floor_above_zero_counts() -> None:
    assert pocket_summary.cell(result(floor=0.2))["cut_seen"] == pytest.approx(0.6 / 0.6)


def test_what_was_not_asked_is_none_and_not_zero() -> None:
    few = result()
    few["rows"] = [one for one in few["rows"] if one["question"] in ("seen", None)]
    found = pocket_summary.cell(few)
    assert found["cut_unseen"] is None
    assert found["other_work_factor"] is None
    assert "| – |" in pocket_summary.table(
        {"x": pocket_summary.summary([row(1, rows=few["rows"])])}
    )


def test_means_over_identities_of_means_over_protection_seeds() -> None:
    stronger = {**PROTECTED, "rate2": (0.0,)}
    rows = [row(1), row(1, seed=1, protected=stronger), row(2, noun="dog")]
    found = pocket_summary.summary(rows)
    assert found["cut_rate2"] == pytest.approx(((0.5 + 1.0) / 2 + 0.5) / 2)
    assert found["spread_over_identities"]["cut_rate2"] == pytest.approx(0.125)
    assert found["spread_over_seeds"]["cut_rate2"] == 0.0
    assert (found["identities"], found["seeds"], found["protection_seeds"]) == (2, 2, 2)
    assert found["persons"]["cut_rate2"] == pytest.approx(0.75)
    by_seed = {seed: one["cut_rate2"] for seed, one in found["by_protection_seed"].items()}
    assert by_seed == pytest.approx({"0": 0.5, "1": 1.0})
    assert found["animals"]["cut_rate2"] == pytest.approx(0.5)
    assert found["original"]["seen at 3"] == pytest.approx(1.0)


def test_identities_of_two_classes_with_one_seed_are_two() -> None:
    assert pocket_summary.summary([row(1), row(1, noun="dog")])["identities"] == 2


def test_a_censored_work_factor_is_a_marked_bound() -> None:
    never = {**PROTECTED, "seen": (0.0, 0.0, 0.1, 0.2)}
    found = pocket_summary.summary([row(1), row(2, protected=never)])
    exact, least = math.sqrt(100 * 150) / math.sqrt(25 * 50), 150 / math.sqrt(25 * 50)
    assert found["work_factor"] == pytest.approx(math.sqrt(exact * least))
    assert found["work_factor_worst_identity"] == pytest.approx(exact)
    assert found["censored"]["work_factor"] == {
        "attacks": 4, "measured": 2, "censored": 2, "not_counted": 0, "bound": ">",
    }  # fmt: skip
    assert found["censored"]["work_factor_worst_identity"]["bound"] == ""
    assert "| ≥ 3.8 ± 0.4 | 3.5 |" in pocket_summary.table({"x": found})


def test_an_original_that_never_gets_there_is_not_counted() -> None:
    found = pocket_summary.summary([row(1, ceiling=3.0)])
    assert found["work_factor"] is None
    assert found["censored"]["work_factor"]["not_counted"] == 2


@pytest.mark.parametrize(
    ("original", "protected", "wanted"),
    [
        ([(10, 0.6)], [(10, 0.1), (40, 0.9)], Bounded(2.0, ">")),  # at most 10, exactly 20
        ([(10, 0.1), (40, 0.9)], [(10, 0.6)], Bounded(0.5, "<")),  # exactly 20, at most 10
        ([(10, 0.6)], [(10, 0.6)], None),  # both are there at the first stop
        ([(10, 0.1)], [(10, 0.6)], None),  # the original never is
    ],
)
def test_sides_of_bounds(original: Any, protected: Any, wanted: Bounded | None) -> None:
    found = work_factor(original, protected, 0.5)
    if wanted is None:
        assert found is None
        return
    assert found is not None
    assert found.value == pytest.approx(wanted.value)
    assert found.bound == wanted.bound


def test_bounds_on_both_sides_bound_nothing() -> None:
    both = [Bounded(2.0, ">"), Bounded(8.0, "<")]
    assert geometric_mean(both).value == pytest.approx(4.0)
    assert geometric_mean(both).bound == "?"
    assert geometric_mean([Bounded(2.0), Bounded(8.0, "<")]).bound == "<"


def test_the_file_has_every_cell_and_the_summary(tmp_path: Path) -> None:
    rows = [row(1)]
    means = pocket_summary.summary(rows)
    pocket_summary.write(tmp_path / "x.json", rows, means)
    document = json.loads((tmp_path / "x.json").read_text())
    wanted = {*pocket_summary.MEASURES, pocket_summary.WORST}
    assert wanted | {"identities", "seeds", "protection_seeds"} <= set(document["summary"])
    assert document["cells"][0]["means"]["cut_seen"] == pytest.approx(0.75)
    assert len(document["cells"][0]["result"]["rows"]) == len(rows[0]["result"]["rows"])
    assert "per_picture" not in (tmp_path / "x.json").read_text()


def test_a_summary_is_of_the_settings_that_are_asked_for_or_ran_last() -> None:
    old, again, longer = row(1), row(2, protect_seconds=7.0), row(3)
    old["job"]["settings"] = {"beta": 5}
    longer["job"]["settings"] = {**longer["job"]["settings"], "steps_outer": 9}
    log = [old, row(2), longer, again, row(3)]
    found = trials.newest(trials.of_settings(log, {"beta": 6}))
    assert [one["job"]["identity"] for one in found] == [2, 3]
    assert found[0]["result"]["protect_seconds"] == 7.0
    assert trials.of_settings(log, {"beta": 5}) == [old]
    found = trials.of_settings(log, row(1)["job"]["settings"], but=["steps_outer"])
    assert [one["job"]["identity"] for one in found] == [2, 3, 2, 3]


def test_settings_over_the_preset_leave_its_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pocket_effect, "run", lambda *given, **how: [row(1)])
    for more in (["--set", "beta=3"], []):
        pocket_effect.main(["--results", str(tmp_path), *more])
        assert "cut" in capsys.readouterr().out
        assert (tmp_path / "pocket_effect.json").exists() == (not more)


def test_nobody_is_both_chosen_on_and_reported_on() -> None:
    from benchmarks import pocket_ablation, pocket_search

    groups = [pocket_effect.PEOPLE, pocket_ablation.PEOPLE, pocket_search.CHOOSING]
    seeds = [
        [(p.class_noun, s) for p in people for s in (p.seed, *p.others.values())]
        for people in groups
    ]
    assert sum(map(len, seeds)) == len(set().union(*seeds))


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_variants_are_settings(name: str) -> None:
    settings = whole_settings(VARIANTS[name])
    assert settings["steps_outer"] > 0
    if name in ABLATIONS and name != "preset":
        assert settings != whole_settings(ABLATIONS["preset"]), "it changes nothing"


def test_a_job_names_everything_that_its_result_depends_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trials, "weights", lambda: "abc")
    question = Question("seen", (0,))

    def job(**changed: Any) -> dict[str, Any]:
        asked = {
            "person": Person("dog", 1, 2),
            "variant": "x",
            "settings": {"beta": 2.0},
            "questions": [question],
            "ground": Ground(),
            "protection_seed": 0,
        }
        return trials.job(**{**asked, **changed})

    plain = job()
    assert (plain["model"], plain["attack"]["steps"]) == ("abc", 50)
    changes: list[dict[str, Any]] = [
        {"person": Person("dog", 3, 2)},
        {"person": Person("cat", 1, 2)},
        {"person": Person("dog", 1, 2, (3,))},
        {"settings": {"beta": 3.0}},
        {"questions": [Question("seen", (1,))]},
        {"questions": [Question("seen", (0,), settings={"learning_rate": 1.0})]},
        {"ground": Ground(images=3)},
        {"ground": Ground(sampler_steps=3)},
        {"protection_seed": 1},
    ]
    different = [job(**change) for change in changes]
    assert all(one != plain for one in different)
    # Where the runs lie changes no result.
    assert job(ground=Ground(Path("elsewhere"))) == plain
    assert Question.of(json.loads(json.dumps(plain["questions"][0]))) == question


@pytest.mark.parametrize(("preset", "name"), [("pocket", ""), ("pocket-long", "_long")])
def test_every_preset_has_files_of_its_own(preset: str, name: str) -> None:
    assert pocket_effect.suffix(preset) == name


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_every_seed_is_asked_once_and_the_first_for_longest(seeds: int) -> None:
    asked = [q for q in pocket_effect.questions(seeds) if q.name == "seen"]
    assert sorted(seed for question in asked for seed in question.seeds) == list(range(seeds))
    assert max(asked[0].budgets) == 6
    twice = next(q for q in pocket_effect.questions(seeds) if q.name == "rate2")
    assert twice.settings == {"learning_rate": 2e-4}


def test_identities_are_chosen_by_name() -> None:
    assert pocket_effect.chosen(None) == pocket_effect.PEOPLE
    asked = pocket_effect.chosen(["cat-1000450", "dog-1000452"])
    assert asked == [pocket_effect.PEOPLE[3], pocket_effect.PEOPLE[1]]
    (stranger,) = pocket_effect.chosen(["dog-1000460"])
    assert stranger == Person("dog", 1_000_460, 1_000_510, (1_000_610, 1_000_710))


@pytest.mark.parametrize("name", ["person-1", "horse-1000450", "person", "person-x"])
def test_nobody_is_measured_whom_training_may_have_seen(name: str) -> None:
    with pytest.raises(SystemExit, match="expected a class"):
        pocket_effect.chosen([name])


def test_the_attack_table_puts_the_weakest_protection_first() -> None:
    harder = {**PROTECTED, "other": (0.0, 0.1, 0.2, 0.3)}
    rows = attack_table.collect([result(harder)])
    names = [one["attack"] for one in rows]
    assert names.index("seen") < names.index("other")
    seen = next(one for one in rows if one["attack"] == "seen")
    assert (seen["original_3"], seen["protected_3"], seen["cut_3"]) == pytest.approx((1, 0.6, 0.4))
    assert seen["n_1"] == 2
    other = next(one for one in rows if one["attack"] == "other")
    assert (other["bound"], other["censored"], other["factors"]) == (">", 2, 2)
    assert "≥ 4.2" in attack_table.table(rows)


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
