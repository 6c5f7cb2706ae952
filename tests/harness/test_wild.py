"""The suite of what trainers ship, from one end to the other on a tiny model."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

from typer.testing import CliRunner

from apdm_cli.cli.main import build_app
from apdm_cli.harness.suites import load_suite
from tests.harness.conftest import Place
from tests.harness.test_attack_command import QUICK


def test_every_recipe_runs(place: Place) -> None:
    # The tiny text encoder has one layer: none to skip.
    small = (*QUICK, "lora.rank=2", "lora.clip_skip=1", "pivotal-tuning.rank=2")
    settings = [part for item in small for part in ("--set", item)]
    where = (
        "--out",
        str(place.root),
        "--device",
        "cpu",
        "--no-control",
        "--budgets",
        "1",
        "--json",
    )
    result = CliRunner().invoke(
        build_app({"attack"}), ["attack", "--suite", "wild", *where, *settings]
    )
    cells = json.loads(result.stdout)["cells"]
    suite = load_suite("wild").attack
    assert len(cells) == len(suite) == len({(entry.name, entry.variant) for entry in suite})
    without = {
        entry.variant
        for entry in suite
        if entry.set.get("optimizer") == "prodigy" and not find_spec("prodigyopt")
    }
    for entry, cell in zip(suite, cells, strict=True):
        assert cell["status"] == ("failed" if entry.variant in without else "done"), cell
        if entry.variant in without:
            assert "prodigyopt" in cell["error"]
            continue
        manifest = json.loads((Path(cell["path"]) / "manifest.json").read_text())
        wanted = {**entry.set, "steps": 2, "rank": 2, "prior_pictures": 2, "clip_skip": 1}
        for key in entry.set:
            assert manifest["configuration"][key] == wanted[key], (entry.variant, key)
