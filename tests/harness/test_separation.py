"""What must never be shared: seeds have their own draws, cells their own keys."""

from __future__ import annotations

import json
from typing import Any

from apdm_cli.diffusion.model import ModelRef
from apdm_cli.extension.manager import build_plugin_manager, registered_attacks
from apdm_cli.harness.plan import plan_cells
from apdm_cli.harness.request import AttackRequest
from tests.harness.conftest import Place
from tests.harness.test_attack_command import attack


def test_every_attack_seed_draws_its_own_class_pictures(place: Place) -> None:
    """Two seeds with one prior would be half a repetition, and its interval too narrow."""
    attack(place, "--plugin", "dreambooth", "--seeds", "2", "--no-control")
    pictures = [file.read_bytes() for file in (place.root / "_cache").rglob("*.png")]
    assert len(pictures) == 4 and len(set(pictures)) == 4  # two seeds, two pictures each


def planned(place: Place, **request: Any) -> tuple[Any, Any]:
    import torch

    asked = AttackRequest(place.root, torch.device("cpu"), torch.float32, run="run", **request)
    arms, cells, _ = asked.plan(registered_attacks(build_plugin_manager()))
    return arms, cells


def test_a_cell_knows_the_original_of_its_model(place: Place) -> None:
    """An attacker may use the original (interpolate does): another one, another result."""
    arms, cells = planned(place, plugins=("dreambooth",))
    jobs = [cell.job for cell in cells if cell.arm == "protected"]
    before = plan_cells(jobs, arms, place.root, wanted=["protected"])[0].cell.key
    known = arms.ref("original")
    arms._refs["original"] = ModelRef(known.source, known.revision, "f" * 64)
    assert plan_cells(jobs, arms, place.root, wanted=["protected"])[0].cell.key != before


def test_whatever_changes_a_result_changes_the_key(place: Place) -> None:
    """One change at a time; each gives a key of its own."""
    requests: dict[str, dict[str, Any]] = {
        "usual": {},
        "seed": {"seeds": (1,)},
        "setting": {"settings": ({"learning_rate": 1e-5},)},
        "transform": {"transforms": ("flip",)},
        "identifier": {"identifier": "zwx"},
        "class": {"class_noun": "dog"},
        "crop": {"crop": "none"},
        "photos": {"photos": (place.photos / "0.png",)},
    }
    keys = {}
    for name, request in requests.items():
        _, cells = planned(place, plugins=("dreambooth",), **request)
        keys[name] = {cell.arm: cell.cell.key for cell in cells}
    for arm in ("original", "protected"):
        found = [key[arm] for key in keys.values()]
        assert len(set(found)) == len(found), keys
    for key in keys.values():
        assert key["original"] != key["protected"]


def test_how_photos_are_cropped_is_part_of_the_key(place: Place) -> None:
    _, usual = planned(place, plugins=("dreambooth",))
    file = place.root / "run" / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["subject"]["photos"]["crop"] = "none"
    file.write_text(json.dumps(manifest))
    _, padded = planned(place, plugins=("dreambooth",))
    assert {cell.cell.key for cell in usual}.isdisjoint(cell.cell.key for cell in padded)
