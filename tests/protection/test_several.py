"""Several subjects protected at once."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import apdm_cli.diffusion.picture_cache as picture_cache
import apdm_cli.protection.l2p as l2p
from apdm_cli.diffusion.condition import Condition
from apdm_cli.errors import ApdmError, UsageError
from apdm_cli.personalization.dreambooth import PictureSource
from apdm_cli.personalization.simulated import SimulatedAttacker
from apdm_cli.protection.asked import parse_subject
from apdm_cli.protection.attackers import in_turn
from apdm_cli.protection.preservation import Distillation
from apdm_cli.randomness import Streams
from apdm_cli.runs.jsonl import read_rows
from apdm_cli.runs.run import Run
from tests.protection import toys
from tests.protection.commands import forget_pipelines, run, same, stopped
from tests.protection.pair import Pair
from tests.tiny import make_photos

PERSISTENT = (
    *("--set", "attackers.kind=persistent", "--set", "attackers.ages=[2,3]"),
    *("--set", "steps_inner=1", "--set", "margin.kind=relative", "--set", "margin.at_start=0.5"),
    *("--set", "preservation.kind=distill", "--set", "preservation.captions=general"),
    *("--set", "preservation.class_samples=2", "--set", "preservation.caption_samples=2"),
    *("--set", "preservation.scale=relative", "--set", "preservation.evaluated_at=start"),
)


@pytest.fixture(scope="module", autouse=True)
def _pipelines() -> Iterator[None]:
    yield
    forget_pipelines()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """One finished run, `both`, that tests only look at."""
    made = Pair(tmp_path_factory.mktemp("pair"))
    assert made.together("both", "--set", "preview_every=4") == 0
    return made


def test_the_manifest_tells_of_all_subjects(pair: Pair) -> None:
    found = pair.manifest("both")
    assert "subject" not in found
    told = [(one["name"], one["class_noun"], one["identifier"]) for one in found["subjects"]]
    assert told == [("alice", "person", "sks"), ("rex", "dog", "zwx")]
    assert [len(one["photos"]["files"]) for one in found["subjects"]] == [2, 3]
    assert {path.name for path in (pair.runs / "both/previews").iterdir()} == {
        "step-000004-alice.png",
        "step-000004-rex.png",
    }


def test_one_subject_by_name_is_a_run_like_any_other(pair: Pair) -> None:
    assert pair.together("rex", subjects=[f"Rex={pair.photos}:dog"]) == 0
    assert pair.protect("plain") == 0
    found = pair.manifest("rex")
    assert "subjects" not in found and found["subject"]["name"] == "rex"
    assert same(pair.weights("rex"), pair.weights("plain"))


def test_a_view_is_one_subject_with_results_of_its_own(pair: Pair) -> None:
    views = Run.open(pair.runs, "both").each
    assert [view.name for view in views] == ["both/alice", "both/rex"]
    assert [view.manifest["subject"]["class_noun"] for view in views] == ["person", "dog"]
    assert len({view.attacks for view in views} | {view.evaluation for view in views}) == 4
    assert len({view.model for view in views}) == 1
    for view in views:
        for again in (view.name, view.address):
            assert Run.open(pair.runs, again).attacks == view.attacks


def test_a_manifest_leads_no_view_out_of_the_run(pair: Pair, tmp_path: Path) -> None:
    found = pair.manifest("both")
    for name in ("..", "../../elsewhere", "/tmp", "a/b", "", "rex"):
        found["subjects"][0]["name"] = name
        (tmp_path / "manifest.json").write_text(json.dumps(found))
        with pytest.raises(ApdmError, match="no names of different folders"):
            Run.open(tmp_path.parent, tmp_path)


def test_every_attacker_is_of_one_subject_and_all_have_equally_many_turns(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the paper's path starts afresh in every outer step."""
    asked: list[tuple[int, Any]] = []
    real = l2p.LearningToProtect._backward_at

    def noted(self: Any, attacker: SimulatedAttacker, **how: Any) -> Any:
        source, own = self.objective.sides[attacker.whose]
        asked.append((attacker.whose, len(source.photos)))
        assert attacker.pictures is not None and source.photos is attacker.pictures.pictures
        photos, classes = attacker.loss.photos, attacker.loss.class_pictures  # type: ignore[attr-defined]
        assert photos.pictures is source.photos and classes.pictures is source.class_pictures
        personal = attacker.loss.personal_condition()  # type: ignore[attr-defined]
        assert torch.equal(personal["text"], own["text"])
        return real(self, attacker, **how)

    monkeypatch.setattr(l2p.LearningToProtect, "_backward_at", noted)
    for name, more in (("paths", ()), ("lives", PERSISTENT)):
        asked.clear()
        assert pair.together(name, *more) == 0
        turns = Counter(asked)
        assert set(turns) == {(0, 2), (1, 3)} and len(set(turns.values())) == 1


@pytest.mark.parametrize(
    "more", [("--set", "train=adapter", "--set", "adapter.rank=2"), ("--memory", "low")]
)
def test_adapters_and_little_memory_serve_several_too(pair: Pair, more: tuple[str, ...]) -> None:
    name = more[1].replace("=", "-")
    assert pair.together(name, *PERSISTENT, *more) == 0
    rows = read_rows(pair.runs / name / "metrics.jsonl")
    assert len(rows) == 4 and rows[-1]["drift"] > 0


def test_turns_are_even_and_in_step_with_nothing() -> None:
    for count in (1, 2, 3, 4, 5, 6, 8):
        for every in range(1, 13):
            turns = [in_turn(index, count, every) for index in range(every * count**4)]
            for when in (turns, turns[every - 1 :: every]):
                met = Counter(when)
                assert len(met) == count and len(set(met.values())) == 1, (count, every)
            rounds = zip(*[iter(turns)] * count, strict=True)
            assert all(len(set(one)) == count for one in rounds)


@pytest.mark.parametrize("every", [1, 2, 3])
def test_of_two_subjects_each_begins_every_second_round(every: int) -> None:
    assert [in_turn(index, 2, every) for index in range(8)] == [0, 1, 1, 0] * 2


def test_learners_who_come_every_fourth_step_meet_both_subjects(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[int] = []
    real = l2p.LearningToProtect._backward_at

    def noted(self: Any, attacker: SimulatedAttacker, **how: Any) -> Any:
        turns.append(attacker.whose)
        return real(self, attacker, **how)

    monkeypatch.setattr(l2p.LearningToProtect, "_backward_at", noted)
    others = ("others.count=1", "others.every=4", "others.subjects=1", "others.pictures=1")
    sets = ("steps_outer=8", "steps_inner=1", *others)
    assert pair.together("fourth", *(part for one in sets for part in ("--set", one))) == 0
    assert {turns[3], turns[7]} == {0, 1}


def test_the_result_depends_on_the_photos_of_every_subject(pair: Pair, tmp_path: Path) -> None:
    other = make_photos(tmp_path / "other", count=3, seed=7)
    for number, subjects in enumerate(
        ([pair.both[0], f"rex={other}:dog:zwx"], [f"alice={other}:person", pair.both[1]])
    ):
        assert pair.together(f"changed-{number}", subjects=subjects) == 0
        assert not same(pair.weights("both"), pair.weights(f"changed-{number}"))
    # Where only Alice has had a turn, Rex's photos play no part.
    first = ("--set", "steps_outer=1", "--set", "preservation.weight=0")
    for number, subjects in enumerate(([*pair.both], [pair.both[0], f"rex={other}:dog:zwx"])):
        assert pair.together(f"first-{number}", *first, subjects=subjects) == 0
    assert same(pair.weights("first-0"), pair.weights("first-1"))


def test_pictures_of_a_class_are_drawn_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = Pair(tmp_path)
    bob = make_photos(tmp_path / "bob", count=3, seed=5)
    drawn: Counter[str] = Counter()
    real = picture_cache.sample

    def counting(model: Any, prompts: Any, *rest: Any, **named: Any) -> Any:
        drawn.update(prompts)
        return real(model, prompts, *rest, **named)

    monkeypatch.setattr(picture_cache, "sample", counting)
    people = [pair.both[0], f"bob={bob}:person", pair.both[1]]
    assert pair.together("three", *PERSISTENT, subjects=people) == 0
    assert drawn == {"a photo of person": 4, "a photo of dog": 4}
    # With what is distilled: 2 samples of the class prompt, 2 of other captions.
    assert capsys.readouterr().err.count("Drawing class pictures: done, 8/8") == 2


def test_the_identifier_share_goes_to_all_subjects() -> None:
    source = PictureSource(toys.latents(4, 2), Streams(0), "preservation", toys.process())
    people = [toys.condition(seed) for seed in (0, 20, 30)]
    term = Distillation(
        source,
        toys.condition(7, count=4),
        Condition.cat(people),
        toys.condition(toys.EMPTY),
        identifier_share=0.6,
        empty_share=0.2,
        batch_size=3000,
        streams=Streams(0),
    )
    drawn = term.draw().condition["text"]
    shares = [(drawn == one["text"]).flatten(1).all(1).float().mean().item() for one in people]
    assert shares == pytest.approx([0.2] * 3, abs=0.03)


def test_preservation_looks_at_every_class(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    real = l2p.LearningToProtect.__init__

    def noted(self: Any, *arguments: Any, **named: Any) -> None:
        real(self, *arguments, **named)
        seen.append(self.objective)

    monkeypatch.setattr(l2p.LearningToProtect, "__init__", noted)
    assert pair.together("classes") == 0
    term = seen[0].preservation
    assert len(term.source.pictures) == len(term.class_condition) == 2 * 4
    rows = term.class_condition["text"]
    assert torch.equal(rows[0], rows[3]) and torch.equal(rows[4], rows[7])
    assert not torch.equal(rows[0], rows[4])


@pytest.mark.usefixtures("heeded_signals")
def test_a_stopped_run_ends_bit_identically_and_takes_nobody_in(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pair.together("whole", *PERSISTENT) == 0
    with stopped():
        assert pair.together("stopped", *PERSISTENT) == 143
    begun = Run.open(pair.runs, "stopped").begun_by()
    assert f"--subject rex={pair.photos}:dog:zwx" in begun and "--class" not in begun
    other = make_photos(tmp_path / "other", count=2, seed=8)
    moved = shutil.copytree(pair.alice, tmp_path / "moved")
    capsys.readouterr()
    for subjects, words in (
        ([*pair.both, f"bob={other}:person"], "subjects"),
        ([f"alice={other}:person", pair.both[1]], "photo 0.png has other content"),
        ([pair.both[0], f"rex={pair.photos}:dog"], "identifier"),
    ):
        assert pair.together("stopped", *PERSISTENT, "--resume", subjects=subjects) == 1
        assert words in capsys.readouterr().err
    again = [f"alice={moved}:person", pair.both[1]]
    assert pair.together("stopped", *PERSISTENT, "--resume", subjects=again) == 0
    assert same(pair.weights("whole"), pair.weights("stopped"))
    logs = [read_rows(pair.runs / name / "metrics.jsonl") for name in ("whole", "stopped")]
    assert logs[0] == logs[1]


def test_a_dry_run_counts_what_every_subject_adds(
    pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pair.together("plan", "--dry-run") == 0
    assert "5 photos of 2 subjects" in capsys.readouterr().out
    assert not (pair.runs / "plan").exists()


def test_how_a_subject_is_written(tmp_path: Path) -> None:
    (tmp_path / "a:b").mkdir()
    for text, path, words in (
        ("x=photos:person", "photos", ("person", "sks")),
        ("x=photos:person:zwx", "photos", ("person", "zwx")),
        (f"x={tmp_path}/a:b:dog", f"{tmp_path}/a:b", ("dog", "sks")),
        (f"x={tmp_path}/a:b:dog:zwx", f"{tmp_path}/a:b", ("dog", "zwx")),
    ):
        found = parse_subject(text)
        assert (str(found.photos[0]), (found.class_noun, found.identifier)) == (path, words)
    assert parse_subject("My Dog=photos:dog").name == "my-dog"
    for wrong in ("x", "x=photos", "=photos:dog", "x=:dog", "x=photos:", "../=photos:dog"):
        with pytest.raises(UsageError, match="NAME=PATH:NOUN"):
            parse_subject(wrong)


def test_what_cannot_be_meant_is_said_before_anything_is_made(
    pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    there = set(pair.runs.iterdir())
    again = f"bob={pair.alice}:person"
    folders = ("--set", f'others.folders=["{pair.photos}"]', "--set", "others.count=1")
    for subjects, more, words in (
        ([pair.both[0]] * 2, (), "two subjects called 'alice'"),
        (pair.both, ("--class", "dog"), "--subject says photos and class"),
        ([*pair.both, again], (), "is a photo of both alice and bob"),
        (["alice=nowhere:person"], (), "nowhere"),
        (pair.both, folders, "others.folders"),
    ):
        assert pair.together("never", *more, subjects=subjects) != 0
        assert words in " ".join(capsys.readouterr().err.split())
    named = [part for one in pair.both for part in ("--subject", one)]
    assert run(["protect", *named, "--method", "naive", "--out", str(pair.runs)]) == 2
    assert "protects one subject at a time" in capsys.readouterr().err
    assert set(pair.runs.iterdir()) == there
