"""From rows to lines: pairing and summaries."""

from __future__ import annotations

from typing import Any

import pytest

from apdm_cli.errors import ApdmError
from apdm_cli.report.comparison import compare_rows
from apdm_cli.report.schema import Line
from apdm_cli.scores import ScoreRow
from tests.report.synthetic import (
    METRICS,
    attack_row,
    both,
    levels,
    neighbour_rows,
    pick,
    row,
    score,
    utility_rows,
    value,
)


def lines_of(rows: list[dict[str, Any]]) -> tuple[list[Line], list[str]]:
    return compare_rows([ScoreRow.model_validate(row) for row in rows], METRICS)


def test_a_line_has_both_arms_their_difference_and_the_cut() -> None:
    lines, said = lines_of(both("lora", 0.62, 0.32) + levels())
    line = pick(lines, "attack", "lora")
    assert (value(line.original), value(line.protected)) == (0.62, 0.32)
    assert value(line.difference) == pytest.approx(-0.3)
    assert value(line.cut) == pytest.approx((0.62 - 0.32) / (0.62 - 0.02))
    assert line.original is not None and (line.original.low, line.original.n) == (0.57, 30)
    assert said == []


def test_the_mean_over_seeds_keeps_every_seed() -> None:
    rows = both("lora", 0.6, 0.2, seed=0) + both("lora", 0.8, 0.4, seed=1)
    line = pick(lines_of(rows)[0], "attack")
    assert value(line.protected) == pytest.approx(0.3)
    assert line.protected is not None
    assert line.protected.seeds == (0, 1)
    assert line.protected.per_seed == (0.2, 0.4)


def test_the_worst_case_is_taken_in_each_arm_and_named() -> None:
    rows = both("dreambooth", 0.7, 0.1) + both("lora", 0.5, 0.3) + levels()
    worst = pick(lines_of(rows)[0], "worst")
    assert worst.reached_by == {"original": "dreambooth", "protected": "lora"}
    assert (value(worst.original), value(worst.protected)) == (0.7, 0.3)
    assert value(worst.difference) == pytest.approx(-0.4)
    assert value(worst.cut) == pytest.approx(0.4 / 0.68)


def test_the_worst_case_of_a_metric_where_higher_protects_is_the_lowest() -> None:
    rows = []
    for attack, number in (("dreambooth", 60.0), ("lora", 40.0)):
        for arm in ("original", "protected"):
            rows.append(attack_row(attack, arm, score(number, "brisque", spread=1)))
    worst = pick(lines_of(rows)[0], "worst", metric="brisque")
    assert worst.reached_by["protected"] == "lora"
    assert worst.cut is None


def test_a_cut_is_of_what_the_attack_gains_in_the_direction_in_which_it_gains() -> None:
    def fdfr(original: float, protected: float, floor: float) -> list[Line]:
        rows = [
            attack_row("lora", "original", score(original, "fdfr")),
            attack_row("lora", "protected", score(protected, "fdfr")),
            row("floor", "original", score(floor, "fdfr"), label="floor"),
        ]
        lines, _ = lines_of(rows)
        return [line for line in lines if line.role in ("attack", "worst")]

    assert [value(line.cut) for line in fdfr(0.1, 0.7, 0.9)] == pytest.approx([0.75, 0.75])
    assert [value(line.cut) for line in fdfr(0.5, 0.1, 0.9)] == pytest.approx([-1, -1])
    assert [line.cut for line in fdfr(0.5, 0.9, 0.1)] == [None, None], "it gained nothing"


def test_a_metric_that_takes_no_side_has_no_cut() -> None:
    rows = [
        *(
            attack_row("lora", arm, score(number, "diversity"))
            for arm, number in (("original", 0.6), ("protected", 0.2))
        ),
        row("floor", "original", score(0.1, "diversity"), label="floor"),
    ]
    lines, _ = lines_of(rows)
    assert pick(lines, "attack", metric="diversity").cut is None
    assert not [line for line in lines if line.role == "worst"], "no attack is the worst in it"


def test_an_attack_that_collapsed_on_the_protected_model_is_no_success_of_the_protection() -> None:
    black = score(None, n=0, skipped=30)
    rows = [
        attack_row("lora", "original", score(0.9)),
        attack_row("lora", "protected", black),
        *both("dreambooth", 0.5, 0.5),
        *levels(),
    ]
    lines, said = lines_of(rows)
    worst = pick(lines, "worst")
    assert worst.reached_by == {"original": "dreambooth", "protected": "dreambooth"}
    assert value(worst.cut) == pytest.approx(0)
    assert said == [
        "dino of lora has no value for the protected model: "
        "every picture was skipped (30 of one colour)"
    ]


@pytest.mark.parametrize("arm", ["original", "protected"])
@pytest.mark.parametrize("absent", [[], [score(None, n=0, skipped=30)]], ids=["no row", "skipped"])
def test_an_attack_with_one_arm_enters_no_summary_where_others_have_both(
    arm: str, absent: list[dict[str, Any]]
) -> None:
    other = "protected" if arm == "original" else "original"
    rows = [
        attack_row("dreambooth", arm, score(0.9)),
        *(attack_row("dreambooth", other, one) for one in absent),
        *both("lora", 0.5, 0.45),
        *levels(),
    ]
    lines, _ = lines_of(rows)
    for role in ("mean", "worst"):
        summary = pick(lines, role)
        assert (value(summary.original), value(summary.protected)) == (0.5, 0.45)
        assert value(summary.cut) == pytest.approx(0.05 / 0.48)
    assert pick(lines, "worst").reached_by == {"original": "lora", "protected": "lora"}


def test_attacks_and_stops_of_which_only_the_original_was_scored_are_said() -> None:
    rows = [
        attack_row("dreambooth", "original", score(0.9)),
        *(one | {"budget": 0.5} for one in both("lora", 0.5, 0.4)),
        attack_row("lora", "original", score(0.9)),
    ]
    assert lines_of(rows)[1] == [
        "Of dreambooth; lora, 1 × the steps only the original's side was scored, which shows "
        "nothing about the protection"
    ]


def test_arms_of_two_attacks_are_never_set_against_each_other() -> None:
    rows = [attack_row("dreambooth", "original", score(0.9))]
    rows.append(attack_row("lora", "protected", score(0.2)))
    lines, _ = lines_of(rows + levels())
    for role in ("mean", "worst"):
        summary = pick(lines, role)
        assert summary.original is None and summary.difference is None and summary.cut is None
        assert value(summary.protected) == 0.2


def test_a_summary_takes_the_stop_nearest_to_an_attacks_own_steps_that_has_both_arms() -> None:
    rows = [
        *(one | {"budget": 0.25} for one in both("lora", 0.3, 0.1)),
        *(one | {"budget": 0.5} for one in both("lora", 0.5, 0.4)),
        attack_row("lora", "original", score(0.9)),
        attack_row("lora", "protected", score(None, n=0, skipped=30)),
    ]
    lines, _ = lines_of(rows)
    worst = pick(lines, "worst")
    assert worst.reached_by == dict.fromkeys(("original", "protected"), "lora, 0.5 × the steps")
    assert value(worst.difference) == pytest.approx(-0.1)
    assert value(pick(lines, "mean").difference) == pytest.approx(-0.1)


def test_the_reason_why_the_worst_case_has_no_original_is_about_the_attack_that_it_names() -> None:
    rows = [
        attack_row("lora", "original", score(None, n=0, skipped=30)),
        attack_row("lora", "protected", score(0.2)),
        attack_row("dreambooth", "protected", score(0.6)),
    ]
    worst = pick(lines_of(rows)[0], "worst")
    assert (worst.reached_by, worst.no_value) == ({"protected": "dreambooth"}, {})


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ({"n": 0, "skipped": 30}, "every picture was skipped (30 of one colour)"),
        ({"n": 0, "skipped": 0}, "no picture was scored"),
        ({"n": 4, "skipped": 2}, "the metric gave no finite number"),
    ],
)
def test_a_missing_value_is_laid_to_colours_only_where_they_are_to_blame(
    counts: dict[str, Any], reason: str
) -> None:
    _, said = lines_of([attack_row("lora", "protected", score(None, **counts))])
    assert said == [f"dino of lora has no value: {reason}"]


def test_a_seed_without_a_value_is_said_and_not_only_left_out() -> None:
    black = attack_row("lora", "protected", score(None, n=0, skipped=30), seed=1)
    rows = [*both("lora", 0.6, 0.2), attack_row("lora", "original", score(0.6), seed=1), black]
    _, said = lines_of(rows)
    assert any("for the protected model, seed 1: every picture was skipped" in one for one in said)


def test_no_score_hides_another() -> None:
    with pytest.raises(ApdmError, match="dino of bob twice"):
        lines_of(
            [
                row("neighbour", "protected", score(number), attack="dreambooth", topic="bob")
                for number in (0.1, 0.7)
            ]
        )


def test_the_mean_over_attacks_weighs_them_equally_whatever_their_seeds() -> None:
    rows = both("a", 0.6, 0.2, seed=0) + both("a", 0.6, 0.2, seed=1) + both("b", 0.8, 0.6)
    assert value(pick(lines_of(rows)[0], "mean").protected) == pytest.approx(0.4)


def test_without_the_control_arm_there_is_no_difference() -> None:
    rows = [attack_row("lora", "protected", score(0.2)), *levels()]
    line = pick(lines_of(rows)[0], "attack")
    assert line.original is None and line.difference is None and line.cut is None
    assert value(line.protected) == 0.2


def test_seeds_that_only_one_arm_has_stay_out_and_that_is_said() -> None:
    rows = [*both("lora", 0.6, 0.2, seed=0), attack_row("lora", "protected", score(0.9), seed=1)]
    lines, said = lines_of(rows)
    assert value(pick(lines, "attack").protected) == 0.2
    assert "different seeds" in said[0] and "only [0] are compared" in said[0]


def test_arms_without_a_common_seed_are_shown_but_not_compared() -> None:
    rows = [
        attack_row("lora", "original", score(0.6), seed=0),
        attack_row("lora", "protected", score(0.2), seed=1),
    ]
    lines, said = lines_of(rows)
    line = pick(lines, "attack")
    assert line.difference is None and value(line.protected) == 0.2
    assert "they are not compared" in said[0]


def test_a_score_without_a_value_is_left_out_and_said() -> None:
    rows = [
        *both("lora", 0.6, 0.2),
        attack_row("broken", "protected", score(None, n=0, skipped=30)),
    ]
    lines, said = lines_of(rows)
    assert [line.label for line in lines if line.role == "attack"] == ["lora"]
    assert "broken" in said[0]


def test_the_reason_of_a_metric_is_said_for_the_arm_that_it_is_about() -> None:
    faceless = score(None, "identity", n=0, skipped=30) | {"why": "no face was found"}
    rows = [
        attack_row("lora", "original", score(0.6, "identity")),
        attack_row("lora", "protected", faceless),
    ]
    lines, said = lines_of(rows)
    (line,) = [line for line in lines if line.role == "attack"]
    assert line.original is not None and line.protected is None
    assert said == ["identity of lora has no value for the protected model: no face was found"]
    _, said = lines_of([attack_row("lora", "protected", faceless)])
    assert said == ["identity of lora has no value: no face was found"]


def test_utility_pairs_by_topic_and_same_seed_needs_no_original() -> None:
    lines, _ = lines_of(utility_rows())
    distance = pick(lines, "utility", "class pictures", "fid")
    assert (value(distance.original), value(distance.protected)) == (7.4, 8.1)
    assert value(distance.difference) == pytest.approx(0.7)
    same = pick(lines, "utility", "class pictures", "same-seed")
    assert same.original is None and value(same.protected) == 0.83


def test_class_pictures_stand_beside_those_of_the_same_seed() -> None:
    lines, _ = lines_of(utility_rows())
    pictures = pick(lines, "utility", metric="fid").pictures
    assert pictures.original == "evaluation/images/class-b"
    assert pictures.protected == "evaluation/images/class-protected"


def test_what_protects_the_subject_is_bad_for_neighbours() -> None:
    lines, _ = lines_of(neighbour_rows())
    line = pick(lines, "neighbour", "dog-2")
    assert line.better == "higher"
    assert value(line.kept) == pytest.approx(0.69 / 0.7)
    assert value(pick(lines, "neighbours").kept) == pytest.approx((0.6 + 0.69) / (0.66 + 0.7))


def test_good_pictures_of_neighbours_stay_good_pictures() -> None:
    quality = score(40.0, "brisque", spread=1)
    variety = score(0.4, "diversity")
    rows = [
        row("neighbour", arm, quality, variety, attack="dreambooth", topic="dog-2")
        for arm in ("original", "protected")
    ]
    lines, _ = lines_of(rows)
    assert pick(lines, "neighbour", metric="brisque").better == "lower"
    assert pick(lines, "neighbour", metric="diversity").better == "higher"
    assert pick(lines, "neighbour", metric="brisque").kept is None  # no share of a quality score


def test_pictures_of_an_attack_are_those_of_the_first_common_seed() -> None:
    rows = both("lora", 0.6, 0.2, seed=1) + both("lora", 0.6, 0.2, seed=2)
    rows.append(attack_row("lora", "protected", score(0.2), seed=0))
    pictures = pick(lines_of(rows)[0], "attack").pictures
    assert pictures.seed == 1
    assert pictures.original and pictures.original.startswith("../_control/")
