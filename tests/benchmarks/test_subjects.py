"""The benchmark of several subjects: one protection, a result for each of them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import subjects
from benchmarks.ground import Ground, Person, Question, whole_settings
from benchmarks.pocket_summary import by_variant, cell
from pocket_training.plan import HELD_OUT_FROM

ATTACK = {"steps": 2, "prior_pictures": 2, "sampler_steps": 1}
FAST = {
    "steps_outer": 2,
    "prior_pictures": 2,
    "sampler_steps": 1,
    "attackers": {"ages": [2, 3]},
    "others": {"count": 1, "pictures": 2, "subjects": 2},
    "preservation": {"class_samples": 2, "caption_samples": 2},
}
QUESTIONS = [
    Question("seen", (0,), (0.5, 1.0), settings=ATTACK),
    Question("other", (0,), photos="other", settings=ATTACK),
]
PEOPLE = [Person("person", HELD_OUT_FROM + 800, HELD_OUT_FROM + 801),
          Person("dog", HELD_OUT_FROM + 802, HELD_OUT_FROM + 803)]  # fmt: skip


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    place = Ground(tmp_path_factory.mktemp("ground"), images=2, class_images=4, sampler_steps=1)
    job = subjects.job(PEOPLE, "both", whole_settings(FAST), QUESTIONS, place, 0)
    return subjects.of_each(
        [{"job": job, "result": subjects.work({**job, "root": str(place.root)})}]
    )


def test_every_subject_has_a_result_of_its_own(rows: list[dict[str, Any]]) -> None:
    assert [row["job"]["class"] for row in rows] == ["person", "dog"]
    for row in rows:
        asked = {(one["question"], one["arm"]) for one in row["result"]["rows"] if one["question"]}
        assert asked == {(q, arm) for q in ("seen", "other") for arm in ("original", "protected")}
        others = {one["topic"] for one in row["result"]["rows"] if one["question"] == "other"}
        assert others == {f"{row['job']['class']}-{row['job']['other']}"}
        assert cell(row["result"])["class_distance_ratio"] > 0
        assert row["result"]["protect_seconds"] > 0
    first, second = (row["result"] for row in rows)
    assert (first["floor"], first["ceiling"]) != (second["floor"], second["ceiling"])
    assert by_variant(rows)["both"]["identities"] == 2
    shown = subjects.table_of_subjects(rows).splitlines()
    assert len(shown) == 2 + 2 and shown[3].startswith(f"| dog-{PEOPLE[1].seed} | both | 0 |")


def test_people_are_added_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def noted(ground: Any, run: Any, person: Person, questions: Any) -> dict[str, Any]:
        asked.append((run.name.rpartition("/")[2], person.name, run.manifest["onto"]["subjects"]))
        return {}

    monkeypatch.setattr(subjects, "answers_of", noted)
    place = Ground(tmp_path, images=2, class_images=4, sampler_steps=1)
    job = subjects.job(PEOPLE, "added", whole_settings(FAST), QUESTIONS, place, 0, "added")
    assert set(subjects.work({**job, "root": str(tmp_path)})) == {who.name for who in PEOPLE}
    (first, _), (second, before) = ((one[:2], one[2]) for one in asked)
    assert first[1] == PEOPLE[0].name and second == (PEOPLE[1].name, PEOPLE[1].name)
    assert before == [first[0]]
    assert len(list((tmp_path / "runs").glob("subjects-*"))) == 2


def test_runs_that_are_added_one_after_the_other_may_keep_attackers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def noted(
        ground: Any, people: Any, settings: Any, name: str, seed: int, **more: Any
    ) -> SimpleNamespace:
        asked.append((name, settings["preservation"].get("displaced"), *more.values()))
        return SimpleNamespace(each=PEOPLE)

    checked: list[Any] = []
    monkeypatch.setattr(Ground, "protect_together", noted)
    monkeypatch.setattr(subjects, "require_displacements", checked.append)
    monkeypatch.setattr(subjects, "answers_of", lambda *given: {})
    settings, jobs = whole_settings(FAST), []
    for way in ("added", "kept"):
        job = subjects.job(PEOPLE, way, settings, QUESTIONS, Ground(tmp_path), 0, way)
        jobs.append(job)
        subjects.work({**job, "root": str(tmp_path)})
    assert jobs[1] == {**jobs[0], "variant": "kept", "kept": {"rank": 16, "weight": 7.0}}
    names, displaced, onto, ranks = zip(*((*one, None)[:4] for one in asked), strict=True)
    assert len(set(names)) == 4, "no run of one way stands for one of the other"
    assert displaced == (None, None, None, 7.0)
    assert [run is not None for run in onto] == [False, True, False, True]
    assert ranks == (None, None, 16, 16)
    assert checked == [onto[3]], "without displacements it would be the other way"


def test_each_count_is_one_protection_and_each_subject_stands_alone_once() -> None:
    settings = {"steps_outer": 10}
    jobs = subjects.all_jobs([1, 2, 5], list(subjects.WAYS), settings, 1)
    told = [(one["variant"], len(one["people"]), one["settings"]["steps_outer"]) for one in jobs]
    assert told == [
        *[("alone", 1, 10)] * 5,
        ("2 together, same steps", 2, 10),
        ("2 together, steps for each", 2, 20),
        ("2 one after the other", 2, 10),
        ("2 one after the other, displacements kept", 2, 10),
        ("5 together, same steps", 5, 10),
        ("5 together, steps for each", 5, 50),
        ("5 one after the other", 5, 10),
        ("5 one after the other, displacements kept", 5, 10),
    ]
    assert len({tuple(map(tuple, one["people"])) for one in jobs}) == 5 + 2
    everybody = [seed for who in subjects.PEOPLE for seed in (who.seed, who.other)]
    assert len(set(everybody)) == len(everybody)


def test_the_tables_can_be_made_again_from_the_log(
    rows: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    result = {f"{row['job']['class']}-{row['job']['identity']}": row["result"] for row in rows}
    of_job = ("people", "variant", "settings", "protection_seed", "model", "attack")
    job = {key: rows[0]["job"][key] for key in of_job}
    (tmp_path / "subjects.jsonl").write_text(json.dumps({"job": job, "result": result}) + "\n")
    subjects.main(["--summary", "--results", str(tmp_path)])
    assert "| both |" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "subjects.json").read_text())["cells"]) == 2
