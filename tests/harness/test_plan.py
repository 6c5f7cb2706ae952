"""The key of a cell: what it was made from, the same before and after budgets came."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
import torch

from apdm_attacks.dreambooth import DreamBooth
from apdm_attacks.lora import Lora
from apdm_attacks.rounds import Rounds
from apdm_cli.config import resolve
from apdm_cli.errors import ApdmError
from apdm_cli.extension.attack import Attack
from apdm_cli.extension.manager import Origin, Registered
from apdm_cli.harness import plan
from apdm_cli.harness.plan import Job, PlannedCell, make_jobs, plan_cells
from apdm_cli.harness.suites import SuiteEntry
from apdm_cli.runs.cells import Cell, cell_key
from apdm_cli.runs.run import Run
from apdm_cli.subject import SubjectRecord
from tests.made_runs import make_cell

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
    later = _job(attack).config.model_copy(update={"timestep_shift": 3.0})
    assert _key(replace(_job(attack), config=later)) != key


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


def _planned(folder: Path, **fields: Any) -> PlannedCell:
    return PlannedCell(replace(_job(Lora()), **fields), "protected", Cell(folder, "lora-0"), None)


def test_a_cell_knows_at_which_budgets_it_was_looked_at(tmp_path: Path) -> None:
    wanted = _planned(tmp_path, budgets=(0.5, 1.0))
    assert not wanted.finished and wanted.found_budgets() == set()
    make_cell(tmp_path, "lora-0", {"stops": [{"budget": 0.5}, {"budget": 2.0}]})
    assert not wanted.finished and wanted.found_budgets() == {0.5, 2.0}
    assert _planned(tmp_path, budgets=(0.5, 2.0)).finished
    scaled = _planned(tmp_path, budgets=(0.25, 1.0), scale=2.0)
    assert scaled.finished, "the budgets of a separate training are those of its own steps"


def test_a_cell_from_before_budgets_has_the_one(tmp_path: Path) -> None:
    make_cell(tmp_path, "lora-0", {})
    assert _planned(tmp_path).found_budgets() == {1.0}


def test_a_broken_cell_is_an_error_and_one_that_is_just_replaced_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = make_cell(tmp_path, "lora-0", {})
    (cell / "manifest.json").write_text("{")
    with pytest.raises(ApdmError, match="lora-0"):
        _planned(tmp_path).found_budgets()

    def replaced(path: Path) -> NoReturn:
        path.rename(tmp_path / "lora-0.old.partial")
        raise ApdmError(f"{path / 'manifest.json'} does not exist")

    monkeypatch.setattr(plan, "read_manifest", replaced)
    assert _planned(tmp_path).found_budgets() == set()


def _two_arms(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """Two models that are known by their digests."""
    return SimpleNamespace(
        has_original=True,
        run=Run(folder / "run", {"name": "run"}),
        dtype=dtype,
        ref=lambda arm: SimpleNamespace(digest=arm),
        learnt=lambda arm, subject, clean_photos: subject,
    )


def test_precision_is_in_the_keys_of_both_arms_but_not_that_of_float32(tmp_path: Path) -> None:
    def keys(dtype: torch.dtype) -> list[str]:
        cells = plan_cells([_job(Lora())], _two_arms(tmp_path, dtype), tmp_path)
        assert cells[1].control == cells[0].cell.key
        return [cell.cell.key for cell in cells]

    exact = keys(torch.float32)
    assert exact == ["lora-fc821f3b5f7f", "lora-0d95e2a5373c"]
    assert len({*exact, *keys(torch.bfloat16), *keys(torch.float16)}) == 6


def test_a_cell_in_another_precision_than_its_key_says_is_not_finished(tmp_path: Path) -> None:
    (exact, _) = plan_cells([_job(Lora())], _two_arms(tmp_path), tmp_path)
    for dtype, found in (("bfloat16", set()), ("float32", {1.0})):
        make_cell(tmp_path / "_control", exact.cell.key, {"dtype": dtype})
        assert (exact.finished, exact.found_budgets()) == (bool(found), found)


def test_a_cell_that_two_jobs_ask_for_comes_once_with_the_budgets_of_both(tmp_path: Path) -> None:
    arms = _two_arms(tmp_path)
    job = _job(Lora())
    jobs = [
        replace(job, budgets=(0.5, 1.0), asked={"suite": "quick"}),
        replace(job, seed=4),
        replace(job, budgets=(0.5, 3.0), asked={"suite": "full"}),
    ]
    cells = plan_cells(jobs, arms, tmp_path)
    assert [(cell.arm, cell.job.seed) for cell in cells] == [
        ("original", 3), ("protected", 3), ("original", 4), ("protected", 4)
    ]  # fmt: skip
    assert [cell.job.budgets for cell in cells[:2]] == [(0.5, 1.0, 3.0)] * 2
    assert [cell.control for cell in cells] == [None, cells[0].cell.key, None, cells[2].cell.key]
    assert cells[0].cell.path.parent == tmp_path / "_control"
    assert cells[1].cell.path.parent == tmp_path / "run" / "attacks"
    alone = plan_cells(jobs, arms, tmp_path, wanted=["protected"])
    assert [(cell.cell.path, cell.control) for cell in alone] == [
        (cells[1].cell.path, None), (cells[3].cell.path, None)
    ]  # fmt: skip
