"""The two models of a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from apdm_cli.errors import ApdmError
from apdm_cli.extension.manager import build_plugin_manager, registered_attacks
from apdm_cli.harness.arms import Arms
from apdm_cli.harness.request import AttackRequest
from apdm_cli.runs.run import Run
from tests.harness.conftest import Place

CPU = torch.device("cpu")


def _arms(place: Place) -> Arms:
    return Arms(Run.open(place.root, "run"), CPU, torch.float32)


def test_refs_need_no_loading_and_are_those_of_the_loaded(place: Place) -> None:
    arms = _arms(place)
    for arm in ("original", "protected"):
        assert arms.ref(arm).digest == arms.load(arm).ref.digest
    assert arms.ref("original").digest != arms.ref("protected").digest
    assert arms.load("protected") is arms.load("protected")


def test_whoever_plans_again_opens_no_model_for_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a model protected elsewhere: the command has opened its original, its helpers need not."""
    available = registered_attacks(build_plugin_manager())
    elsewhere: dict[str, Any] = {
        "model": str(place.root / "run" / "model"),
        "original": str(place.model),
    }
    whom: dict[str, Any] = {"photos": (place.photos,), "class_noun": "person"}
    what: dict[str, Any] = {"device": CPU, "dtype": torch.float32, "plugins": ("dreambooth",)}
    request = AttackRequest(place.root, **elsewhere, **whom, **what)
    arms, cells, _ = request.plan(available)
    monkeypatch.setattr("apdm_cli.harness.arms.load_model", None)
    _, again, _ = request.of_run(arms.run).plan(available)
    assert [cell.cell.path for cell in again] == [cell.cell.path for cell in cells]
    assert len(again) == 2


def test_a_run_that_saved_the_unet_only(place: Place) -> None:
    whole: Any = _arms(place).load("protected").trained
    folder = place.root / "run" / "model"
    for part in list(folder.iterdir()):
        if part.name != "unet":
            shutil.rmtree(part) if part.is_dir() else part.unlink()
    arms = _arms(place)
    rebuilt: Any = arms.load("protected")
    assert rebuilt.ref == arms.ref("protected")
    for one, other in zip(whole.parameters(), rebuilt.trained.parameters(), strict=True):
        assert torch.equal(one, other)


def test_an_original_that_changed_is_refused(place: Place) -> None:
    file = place.root / "run" / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["model"]["digest"] = "0" * 64
    file.write_text(json.dumps(manifest))
    with pytest.raises(ApdmError, match="is not the model"):
        _arms(place).load("original")


def test_a_protected_model_that_is_gone(place: Place) -> None:
    shutil.rmtree(place.root / "run" / "model")
    with pytest.raises(ApdmError, match="missing"):
        _arms(place).ref("protected")


def test_the_profile_follows_the_model(place: Place) -> None:
    assert _arms(place).profile() == ""
    file: Path = place.root / "run" / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["model"]["source"] = "pocket"
    file.write_text(json.dumps(manifest))
    assert _arms(place).profile() == "pocket"
