"""The benchmarks' ground: identities as photos, and `apdm`'s own cells on them, done once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from apdm_cli.harness.work import CellWork
from benchmarks import aa_test, ground, pocket_summary, trials
from benchmarks.ground import Ground, Person, Question, whole_settings

PERSON = Person("person", 1_000_700, 1_000_701)
ATTACK = {"steps": 2, "prior_pictures": 2, "sampler_steps": 1}
FAST = {
    "preset": "pocket-plain",
    "steps_outer": 1,
    "prior_pictures": 2,
    "sampler_steps": 1,
    "preservation": {"class_samples": 2, "caption_samples": 2},
}
QUESTIONS = [
    Question("seen", (0,), (0.5, 1.0), settings=ATTACK),
    Question("other", (0,), photos="other", settings=ATTACK),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return Ground(tmp_path_factory.mktemp("ground"), images=2, class_images=4, sampler_steps=1)


@pytest.fixture(scope="module")
def job(place: Ground) -> dict[str, Any]:
    return trials.job(PERSON, "fast", whole_settings(FAST), QUESTIONS, place)


@pytest.fixture(scope="module")
def result(place: Ground, job: dict[str, Any]) -> dict[str, Any]:
    return trials.work({**job, "root": str(place.root)})


def test_photos_are_rendered_once_and_unseen_ones_are_others(tmp_path: Path) -> None:
    place = Ground(tmp_path)
    seen, unseen = (place.photos("cat", 1_000_702, which) for which in ("seen", "unseen"))
    contents = [file.read_bytes() for folder in (seen, unseen) for file in sorted(folder.iterdir())]
    assert len(set(contents)) == 2 * ground.PHOTOS
    times = [file.stat().st_mtime_ns for file in sorted(seen.iterdir())]
    assert place.photos("cat", 1_000_702) == seen
    assert [file.stat().st_mtime_ns for file in sorted(seen.iterdir())] == times


def test_a_log_does_not_answer_for_a_suite_that_holds_something_else(tmp_path: Path) -> None:
    suite = tmp_path / "mine.toml"

    def asked(text: str) -> dict[str, Any]:
        suite.write_text(text, encoding="utf-8")
        return trials.table_of(Question("suite", (0,), suite=str(suite)))

    one = '[[attack]]\nname = "lora"\n'
    first = asked(one)
    assert asked(f"# a recipe\n{one}") == first
    assert first != asked(f"{one}set = {{ rank = 8 }}\n")
    assert first != asked(f"budgets = [0.5, 1.0]\n{one}")
    assert first != asked(f'{one}crop = "none"\n')
    assert first["recipes"] == "40671f29", "as before entries could have a crop"
    assert Question.of(first) == Question("suite", (0,), suite=str(suite))


def test_both_models_answer_every_question_at_every_budget(result: dict[str, Any]) -> None:
    found = {
        (row["question"], row["arm"], row["budget"], row["steps"])
        for row in result["rows"]
        if row["question"]
    }
    assert found == {
        (question, arm, budget, steps)
        for question, budget, steps in (("seen", 0.5, 1), ("seen", 1.0, 2), ("other", 1.0, 2))
        for arm in ("original", "protected")
    }
    roles = {row["question"]: row["role"] for row in result["rows"] if row["question"]}
    assert roles == {"seen": "attack", "other": "neighbour"}
    assert -1 < result["floor"] < result["ceiling"] <= 1
    assert result["protect_seconds"] > 0
    shown = pocket_summary.cell(result)
    assert shown["class_distance_ratio"] > 0
    assert -1 <= shown["class_same_seed"] <= 1


def test_a_joint_search_of_a_suite_answers_at_its_budgets(
    place: Ground, job: dict[str, Any], result: dict[str, Any], tmp_path: Path
) -> None:
    suite = tmp_path / "mine.toml"
    suite.write_text(
        "budgets = [1, 2]\n"
        '[[attack]]\nname = "adaptive"\nvariant = "tiny"\nset = { steps = 2, candidates = 1, '
        'ranks = [2], targets = ["lora"], pictures = 1, prior_weight = 0, sampler_steps = 1 }\n'
    )
    question = trials.table_of(Question("suite", (0,), suite=str(suite)))
    answers = trials.work({**job, "questions": [question], "root": str(place.root)})
    found = [row for row in answers["rows"] if row["question"]]
    assert {row["question"] for row in found} == {"adaptive (tiny)"}
    assert {(row["arm"], row["budget"], row["steps"]) for row in found} == {
        (arm, budget, steps)
        for arm in ("original", "protected")
        for budget, steps in ((1.0, 2), (2.0, 4))
    }


def test_nothing_is_trained_twice(
    place: Ground, job: dict[str, Any], result: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("it is there already")

    monkeypatch.setattr(ground, "protect", never)
    monkeypatch.setattr(CellWork, "do", never)
    assert trials.work({**job, "root": str(place.root)}) == result


def test_another_protection_attacks_its_own_model_only(
    place: Ground, job: dict[str, Any], result: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []
    real = CellWork.do

    def noted(self: CellWork, planned: Any, folder: Path) -> dict[str, Any]:
        trained.append(planned.arm)
        return real(self, planned, folder)

    monkeypatch.setattr(CellWork, "do", noted)
    again = {**job, "protection_seed": 1, "questions": job["questions"][:1]}
    other = trials.work({**again, "root": str(place.root)})
    assert trained == ["protected"]
    kept = [[r for r in one["rows"] if (r["question"], r["arm"]) == ("seen", "original")]
            for one in (result, other)]  # fmt: skip
    assert kept[0] == kept[1]


def test_the_original_alone_can_be_attacked(place: Ground) -> None:
    arms = aa_test.work({
        "root": str(place.root), "identity": PERSON.seed, "images": 2, "arms": [[0], [1]],
        "settings": ATTACK, "sampler_steps": 1,
    })["arms"]  # fmt: skip
    ((first,), (second,)) = arms
    assert first != second
    assert first[1] <= first[0] <= first[2]
