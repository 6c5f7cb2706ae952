"""The sentence claims what the numbers show, and nothing where they show nothing."""

from __future__ import annotations

from typing import Any

import pytest

from apdm_cli.report.comparison import compare_rows
from apdm_cli.report.verdict import answer, verdict
from apdm_cli.scores import ScoreRow
from tests.report.synthetic import METRICS, REPORTED, attack_row, full_rows, levels, score


def sentence(rows: list[dict[str, Any]]) -> str:
    lines, _ = compare_rows([ScoreRow.model_validate(row) for row in rows], METRICS)
    return verdict(lines, REPORTED)


def both(original: float, protected: float, spread: float | None = 0.02) -> list[dict[str, Any]]:
    return [
        attack_row("lora", "original", score(original, spread=spread)),
        attack_row("lora", "protected", score(protected, spread=spread)),
    ]


def test_everything_measured() -> None:
    said = sentence(full_rows())
    assert said.startswith("The strongest of 4 attacks, lora, reaches similarity 0.31 [0.26, 0.36]")
    assert (
        "to the subject on the protected model, against 0.64 on the original (floor 0.02)" in said
    )
    assert "53 % [" in said and "of what it gained is gone" in said
    assert (
        "class pictures are unchanged within noise "
        "(fid[pocket] 8.10; two seeds of the original: 7.40)" in said
    )
    assert said.endswith("other subjects can still be taught 95 % as well.")


def test_a_difference_that_may_be_chance() -> None:
    assert "no difference that could not be chance" in sentence(both(0.6, 0.59, 0.05) + levels())
    assert "without an interval this may be chance" in sentence(both(0.6, 0.2, None) + levels())


def test_an_attack_that_fails_on_the_original_shows_nothing() -> None:
    said = sentence(both(0.03, 0.01) + levels())
    assert said.startswith("The attack did not clearly succeed on the original (0.03, floor 0.02)")
    assert "shows nothing" in said


def test_a_protection_that_backfires() -> None:
    assert "the protection made it easier" in sentence(both(0.3, 0.6) + levels())


def test_without_a_floor_there_is_no_share() -> None:
    said = sentence(both(0.6, 0.2))
    assert said.endswith("against 0.60 on the original: 0.40 less.")


def test_without_similarity_nothing_is_said() -> None:
    rows = [attack_row("lora", "protected", score(40.0, "brisque"))]
    assert "nothing is said" in sentence(rows)


NO_VALUE = score(None, n=0, skipped=30)


@pytest.mark.parametrize(
    ("odd", "left_out"),
    [
        ({"original": score(0.9)}, "with no score on the protected model"),
        ({"original": score(0.9), "protected": NO_VALUE}, "with no score on the protected model"),
        ({"protected": score(0.9)}, "with no score on the original to compare with"),
        (
            {"original": NO_VALUE, "protected": score(0.9)},
            "with no score on the original to compare with",
        ),
    ],
)
def test_an_attack_with_one_arm_is_left_out_of_the_answer_and_named(
    odd: dict[str, Any], left_out: str
) -> None:
    rows = [attack_row("dreambooth", arm, one) for arm, one in odd.items()]
    lines, _ = compare_rows(
        [ScoreRow.model_validate(row) for row in rows + both(0.52, 0.42) + levels()], METRICS
    )
    said = answer(lines, REPORTED)
    assert said.startswith("The protection takes away about 20 % (")
    assert said.endswith(f"gains; it was lora. Left out, {left_out}: dreambooth.")
    assert verdict(lines, REPORTED).startswith("The lora attack reaches similarity 0.42")


def test_an_attack_that_has_both_arms_only_at_an_earlier_stop_is_judged_there() -> None:
    early = [row | {"budget": 0.5} for row in both(0.52, 0.42)]
    lines, _ = compare_rows(
        [ScoreRow.model_validate(row) for row in both(0.9, 0.0)[:1] + early + levels()], METRICS
    )
    said = answer(lines, REPORTED)
    assert "about 20 %" in said and said.endswith("it was lora, 0.5 × the steps.")
    assert verdict(lines, REPORTED).startswith("The attack lora, 0.5 × the steps, reaches")


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (full_rows(), "on the protected model, against 0.64 on the original"),
        (both(0.6, 0.59, 0.05) + levels(), "as well on the protected model as on the original."),
        (both(0.3, 0.6) + levels(), "lora attack does better than on the original."),
        (both(0.03, 0.01) + levels(), "does not clearly get a likeness from the original either."),
        (both(0.6, 0.2)[:1] + levels(), "no attack on the protected model was scored."),
        (both(0.6, 0.2)[1:] + levels(), "without the same attack on the original, "),
    ],
)
def test_where_photos_are_protected_the_arms_are_photos(
    rows: list[dict[str, Any]], sentence: str
) -> None:
    """The same sentences, about photos, and nothing of a model that was protected."""
    lines, _ = compare_rows([ScoreRow.model_validate(row) for row in rows], METRICS)
    about = f"{answer(lines, REPORTED)} {verdict(lines, REPORTED)}"
    assert sentence in about
    said = answer(lines, REPORTED, protects="photos")
    assert said.endswith(" The model is not changed, and stays for everybody else what it was.")
    said += f" {verdict(lines, REPORTED, protects='photos')}"
    for model, photos in {
        "on the protected model": "with the perturbed photos",
        "the protected model": "the perturbed photos",
        "on the original": "with the original photos",
        "the original": "the original photos",
    }.items():
        sentence = sentence.replace(model, photos) if photos not in sentence else sentence
    assert sentence in said
    for word in ("protected model", "on the original", "class pictures", "be taught"):
        assert word not in said
