"""`apdm attack --dry-run`: what would run, and times that were measured or are not given."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from apdm_cli.evaluation.cells import AttackCell
from apdm_cli.harness.pace import Pace
from tests.harness.conftest import Place
from tests.harness.test_attack_command import attack
from tests.tiny import make_tiny_run

DREAMBOOTH = ("--plugin", "dreambooth", "--images", "1")


def _plan(place: Place, *arguments: str, quick: bool = True) -> dict[str, Any]:
    result = attack(place, *arguments, "--dry-run", "--json", quick=quick)
    return dict(json.loads(result.stdout))


def _files(root: Path) -> list[Path]:
    return sorted(root.rglob("*"))


def test_nothing_is_written_and_nothing_is_guessed(place: Place) -> None:
    before = _files(place.root)
    plan = _plan(place, *DREAMBOOTH, "--budgets", "1,3", "--seeds", "2")
    assert [(cell["arm"], cell["shared"], cell["seed"]) for cell in plan["cells"]] == [
        ("original", True, 0),
        ("protected", False, 0),
        ("original", True, 1),
        ("protected", False, 1),
    ]
    assert all(cell["state"] == "new" and cell["runs"] for cell in plan["cells"])
    assert [cell["steps"] for cell in plan["cells"]] == [6] * 4
    assert [cell["pictures"] for cell in plan["cells"]] == [1] * 4
    assert (plan["steps"], plan["pictures_to_draw"], plan["class_pictures_to_draw"]) == (24, 4, 8)
    assert plan["estimated_seconds"] is None
    assert "not known" in plan["lines"][-1]
    assert (plan["devices"], plan["dtype"]) == (["cpu"], "float32")
    assert _files(place.root) == before


def test_what_is_finished_sets_the_pace_of_what_is_like_it(place: Place) -> None:
    attack(place, *DREAMBOOTH, "--budgets", "1,2")
    plan = _plan(place, *DREAMBOOTH, "--budgets", "1,2")
    assert [(cell["state"], cell["runs"]) for cell in plan["cells"]] == [("finished", False)] * 2
    assert (plan["to_run"], plan["steps"], plan["estimated_seconds"]) == (0, 0, 0)

    once = _plan(place, *DREAMBOOTH, "--seed", "1", "--budgets", "1,2")
    assert once["cells"][0]["estimated_seconds"] > 0
    assert once["estimated_seconds"] == pytest.approx(2 * once["cells"][0]["estimated_seconds"])
    steps = ("--set", "dreambooth.steps=20")
    longer = _plan(place, *DREAMBOOTH, "--seed", "1", "--budgets", "1", *steps)
    twice = _plan(place, *DREAMBOOTH, "--seed", "1", "--budgets", "2", *steps)
    assert twice["estimated_seconds"] == pytest.approx(2 * longer["estimated_seconds"])

    for unlike in (("--set", "dreambooth.batch_size=3"), ("--set", "dreambooth.prior_weight=0")):
        assert _plan(place, *DREAMBOOTH, *unlike)["estimated_seconds"] is None
    # A part that was measured is no whole.
    both = _plan(place, *DREAMBOOTH, "--plugin", "lora", "--seed", "1")
    assert [cell["estimated_seconds"] is None for cell in both["cells"]] == [
        *(False, False),
        *(True, True),
    ]
    assert both["estimated_seconds"] is None
    assert "for 2 of these cells" in both["lines"][-1]


def test_more_than_is_there_runs_again(place: Place) -> None:
    attack(place, *DREAMBOOTH)
    longer = _plan(place, *DREAMBOOTH, "--budgets", "3")
    # Budget 1, which is there, is kept: its picture is drawn on the way.
    assert [(c["state"], c["runs"], c["steps"], c["pictures"]) for c in longer["cells"]] == [
        ("finished", True, 6, 1)
    ] * 2
    assert "2 finished cells would be run again" in " ".join(longer["lines"])
    assert _plan(place, *DREAMBOOTH, "--rerun")["to_run"] == 2


def test_the_control_of_another_run_is_there_already(place: Place) -> None:
    attack(place, "run", *DREAMBOOTH)
    make_tiny_run(place.root, place.model, place.photos, "second")
    control, protected = _plan(place, "second", *DREAMBOOTH)["cells"]
    assert (control["state"], control["runs"]) == ("finished", False)
    assert (protected["state"], protected["runs"]) == ("new", True)


def test_a_model_protected_elsewhere_gets_no_run_yet(place: Place) -> None:
    before = _files(place.root)
    elsewhere = ("--model", str(place.root / "run" / "model"), "--photos", str(place.photos))
    plan = _plan(place, *elsewhere, "--subject-class", "person", *DREAMBOOTH)
    assert [cell["arm"] for cell in plan["cells"]] == ["protected"]
    assert "only the protected model is attacked" in " ".join(plan["said"])
    assert _files(place.root) == before


def test_people_read_a_table_and_sentences(place: Place) -> None:
    shown = attack(place, *DREAMBOOTH, "--budgets", "0.5,1", "--workers", "2", "--dry-run").stdout
    shown = " ".join(shown.split())
    assert "Plan for run (nothing is written)" in shown
    assert "0.5, 1" in shown and "to run" in shown
    assert "At most 4 training steps and 2 pictures on the way, on cpu (float32) by 2" in shown


def test_what_was_not_measured_is_not_reckoned_with() -> None:
    pace = Pace(steps=4, step_seconds=2.0)
    assert pace.seconds(8, 0) == 4.0
    assert pace.seconds(8, 1) is None
    assert (pace + Pace(pictures=2, picture_seconds=1.0)).seconds(8, 4) == 6.0
    assert Pace.of({}) == Pace()
    assert Pace.of({"pace": pace.as_record()}) == pace


def test_pictures_do_not_depend_on_the_pace(tmp_path: Path) -> None:
    cell = AttackCell(tmp_path, {"summary": {"final_loss": 0.5}}, {})
    slower = replace(cell, manifest={**cell.manifest, "pace": Pace(3, 1.5).as_record()})
    other = replace(cell, manifest={"summary": {"final_loss": 0.6}})
    assert cell.origin == slower.origin != other.origin
