"""The example package as its author would use it: installed, found, run, uninstalled, gone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import make_photos, make_tiny_pipeline, make_tiny_run

EXAMPLE = Path(__file__).parents[2] / "plugins" / "example"


IN_TURN = """
import contextlib, io, json, sys
from apdm_cli.cli.main import main
answers = []
for command in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as said:
        try:
            main([*command, "--json"])
        except SystemExit as ended:
            if ended.code:
                raise
    answers.append(json.loads(said.getvalue()))
print(json.dumps(answers))
"""


class Environment:
    """A virtual environment that sees everything of the one the tests run in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        venv.create(folder, with_pip=False)
        self.python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
        outer = sysconfig.get_path("purelib")
        (site / "outer.pth").write_text(f"import site; site.addsitedir({outer!r})\n")

    def run(self, *arguments: str) -> str:
        result = subprocess.run(
            [str(self.python), *arguments], capture_output=True, text=True, cwd=self.folder
        )
        assert result.returncode == 0, result.stdout + result.stderr[-3000:]
        return result.stdout

    def apdm(self, *arguments: str) -> dict[str, Any]:
        return dict(json.loads(self.run("-m", "apdm_cli.cli.main", *arguments, "--json")))

    def apdm_in_turn(self, *commands: Sequence[str]) -> list[dict[str, Any]]:
        """What each of the commands answers; one process, which imports PyTorch once."""
        return list(json.loads(self.run("-c", IN_TURN, json.dumps(commands))))

    def pip(self, *arguments: str) -> None:
        self.run("-m", "pip", "--quiet", "--disable-pip-version-check", *arguments)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    pytest.importorskip("pip")
    return Environment(tmp_path_factory.mktemp("venv") / "env")


def test_install_find_run_uninstall(environment: Environment, tmp_path: Path) -> None:
    source = tmp_path / "example"
    shutil.copytree(EXAMPLE, source)
    environment.pip("install", "--no-deps", "--no-build-isolation", "--no-index", str(source))
    found = environment.apdm("plugins")
    assert found["broken"] == []
    mine = {row["name"]: row for row in found["plugins"] if row["distribution"] == "apdm-example"}
    assert {(name, row["kind"]) for name, row in mine.items()} == {
        ("cross-attention", "attack"),
        ("sharpness", "metric"),
        ("palette", "metric"),
    }
    (layers,) = (o for o in mine["cross-attention"]["options"] if o["key"] == "layers")
    assert layers["default"] == "attn2" and layers["description"]

    model = make_tiny_pipeline(tmp_path / "model", channels=(32, 32), text_layers=1)
    make_tiny_run(tmp_path / "runs", model, make_photos(tmp_path / "photos"))
    small = ("steps=2", "prior_pictures=2", "sampler_steps=2")
    settings = [part for item in small for part in ("--set", item)]
    common = ["--out", str(tmp_path / "runs"), "--device", "cpu"]
    drawing = ["--images", "2", "--class-images", "2", "--steps", "1", "--sampler", "ddim"]
    attacked, scored, compared = environment.apdm_in_turn(
        ["attack", "--plugin", "cross-attention", *settings, *common],
        ["evaluate", "--metrics", "sharpness,palette", *drawing, *common],
        ["compare", "--out", str(tmp_path / "runs")],
    )
    assert [cell["status"] for cell in attacked["cells"]] == ["done", "done"]
    _stands_like_a_first_party_metric(scored, compared["runs"][0], tmp_path / "runs")

    environment.pip("uninstall", "--yes", "apdm-example")
    left = environment.apdm("plugins")["plugins"]
    assert {row["distribution"] for row in left} == {"apdm"}


def _stands_like_a_first_party_metric(
    scored: dict[str, Any], compared: dict[str, Any], root: Path
) -> None:
    """Somebody else's metrics in scores, table, verdict and report, by what they declare."""
    assert [metric["name"] for metric in scored["metrics"]] == ["sharpness", "palette"]
    worst = {line["metric"]: line for line in compared["lines"] if line["role"] == "worst"}
    reached = worst["palette"]["protected"]["value"]
    assert f"similarity {reached:.2f}" in compared["verdict"], "palette leads"
    assert worst["palette"]["cut"] is None or worst["palette"]["cut"]["value"] is not None
    better = {(one["role"], one["metric"]): one["better"] for one in compared["lines"]}
    assert better["attack", "sharpness"] == "lower" and better["utility", "sharpness"] == "higher"
    page = (root / "run" / "report.html").read_text(encoding="utf-8")
    assert "Colours of the subject (palette)" in page and "Sharpness (sharpness)" in page
    assert "How alike the colours of pictures and photos are." in page
