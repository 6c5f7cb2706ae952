"""The key of a cell: what it was made from, the same before and after budgets came."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from apdm_attacks.dreambooth import DreamBooth
from apdm_attacks.lora import Lora
from apdm_attacks.rounds import Rounds
from apdm_cli.config import resolve
from apdm_cli.extension.attack import Attack
from apdm_cli.extension.manager import Origin, Registered
from apdm_cli.harness.plan import Job, make_jobs
from apdm_cli.harness.suites import SuiteEntry
from apdm_cli.runs.cells import cell_key
from apdm_cli.subject import SubjectRecord

OURS, THEIRS = Origin("p", "d", "1.0"), Origin("q", "other", "7.0")
SUBJECT = SubjectRecord("ann", "person", "sks", (Path("/x"),), (("0.png", "ab" * 32),))


def _job(attack: Attack) -> Job:
    config = resolve(attack.Config, attack.profiles["pocket"])
    return Job(Registered(attack, OURS), config, "", 3, SUBJECT, ("flip",), "pocket")


def _key(job: Job) -> str:
    return cell_key({**job.description(), "model": "m", "original": "o"}, readable=("attack",))


@pytest.mark.parametrize(
    ("attack", "key"),
    [(DreamBooth(), "dreambooth-dcdc83280b90"), (Lora(), "lora-bbeb07b69ff6")],
)
def test_finished_cells_of_earlier_versions_are_found_again(attack: Attack, key: str) -> None:
    assert _key(_job(attack)) == key
    assert _key(replace(_job(attack), budgets=(0.5, 1.0, 3.0), asked={"set": {}})) == key
    assert _key(replace(_job(attack), scale=3.0)) != key


def test_the_version_of_the_attack_that_another_is_made_of_is_in_the_key() -> None:
    class Mine(DreamBooth):
        """Somebody's own."""

        name = "mine"

    def jobs(version: str) -> list[Job]:
        available: dict[str, Registered[Attack]] = {
            "rounds": Registered(Rounds(), OURS),
            "dreambooth": Registered(DreamBooth(), OURS),
            "mine": Registered(Mine(), replace(THEIRS, version=version)),
        }
        return make_jobs(
            available,
            [SuiteEntry(name="rounds", set={"attack": "mine"}), SuiteEntry(name="rounds")],
            settings=(),
            subject=SUBJECT,
            transforms=(),
            seeds=(0,),
            profile="",
        )

    (old, plain), (new, again) = jobs("7.0"), jobs("8.0")
    assert _key(old) != _key(new)
    assert _key(plain) == _key(again), "its own plugin's version is in the key already"
