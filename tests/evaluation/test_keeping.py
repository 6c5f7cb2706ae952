"""`apdm attack --keep`: what stays of an attacked model, and what an evaluation makes of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from apdm_cli.cli.main import main
from apdm_cli.evaluation.evaluate import evaluate_run
from apdm_cli.evaluation.profiles import EvaluationSettings
from apdm_cli.extension.attack import Artifact
from apdm_cli.extension.family import load_model
from apdm_cli.harness.artifacts import load_attacked
from apdm_cli.progress import Silent
from apdm_cli.runs.disk import tree_size
from apdm_cli.runs.run import Run
from tests.evaluation.material import CPU, QUICK, Bench

PICTURES = ("--images", "4", "--sampler", "ddim", "--sampler-steps", "2")


def attack(bench: Bench, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    """The cell of DreamBooth on the protected model, as `--json` tells of it."""
    command = ["attack", "run", "--out", str(bench.root), "--device", "cpu", "--no-control"]
    for setting in ("steps=2", "prior_pictures=1", "sampler_steps=1", "learning_rate=0.001"):
        command += ["--set", setting]
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([*command, "--plugin", "dreambooth", *PICTURES, "--json", *options])
    assert not ended.value.code
    (cell,) = json.loads(capsys.readouterr().out)["cells"]
    return dict(cell)


class Noting(Silent):
    def __init__(self) -> None:
        self.sentences: list[str] = []

    def said(self, sentence: str) -> None:
        self.sentences.append(sentence)


def pictures(bench: Bench, cell: str, said: Noting | None = None, **changes: Any) -> list[bytes]:
    """What an evaluation scores of `cell`."""
    settings = EvaluationSettings(
        **{"metrics": ("dino",), "weights": bench.weights, **QUICK, **changes}
    )
    run = Run.open(bench.root, "run")
    rows = evaluate_run(bench.root, run, settings, said, device=CPU).rows
    folders = [run.path / str(row.images) for row in rows if row.cell == cell]
    return [file.read_bytes() for folder in folders for file in sorted(folder.glob("*.png"))]


def test_pictures_alone_are_those_that_the_artifact_would_draw(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = attack(bench, capsys)
    drawn = pictures(bench, whole["cell"])
    assert len(drawn) == 4
    kept = attack(bench, capsys, "--keep", "pictures", "--rerun")
    assert kept["cell"] == whole["cell"] and kept["status"] == "done"
    assert not list(Path(kept["path"]).rglob("*.safetensors"))
    assert pictures(bench, kept["cell"]) == drawn
    # However much is to be kept, the cell is there, as long as its pictures are those wanted.
    assert attack(bench, capsys)["status"] == "cached"
    assert attack(bench, capsys, "--images", "5")["status"] == "done"


def test_other_pictures_of_a_dropped_artifact_are_said_to_be_gone(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = attack(bench, capsys, "--keep", "pictures")["cell"]
    said = Noting()
    assert pictures(bench, cell, said, images=5) == []
    (sentence,) = [one for one in said.sentences if cell in one]
    assert "whose weights are gone" in sentence and "--rerun" in sentence
    assert len(pictures(bench, cell)) == 4


def test_an_attack_that_was_made_again_with_other_pictures_replaces_its_scores(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = attack(bench, capsys)["cell"]
    pictures(bench, cell)
    shutil.rmtree(bench.run.evaluation / "images" / cell)
    attack(bench, capsys, "--keep", "pictures", "--rerun", "--images", "3")
    assert len(pictures(bench, cell, images=3)) == 3


def test_a_difference_takes_half_the_room_and_opens_as_the_artifact(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = attack(bench, capsys)
    base = load_model(str(bench.run.model), CPU)
    folder = Path(whole["path"]) / "artifact"
    size = tree_size(folder)
    expected = load_attacked(base, Artifact("pipeline", folder)).trained.state_dict()
    kept = attack(bench, capsys, "--keep", "difference", "--rerun")
    assert kept["cell"] == whole["cell"]
    manifest = json.loads((Path(kept["path"]) / "manifest.json").read_text())
    assert manifest["artifact"] == {"kind": "difference", "path": "artifact"}
    assert tree_size(folder) < 0.6 * size
    opened = load_attacked(base, Artifact("difference", folder)).trained.state_dict()
    start = base.trained.state_dict()
    assert any(not torch.equal(opened[key], start[key]) for key in start)
    for key, value in expected.items():
        # A bfloat16 has 8 significant bits.
        assert ((opened[key] - value).abs() <= 2**-8 * (value - start[key]).abs() + 1e-7).all()
    assert len(pictures(bench, kept["cell"])) == 4


def test_what_is_small_is_kept_as_it_is(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["attack", "run", "--out", str(bench.root), "--device", "cpu", "--no-control"]
    command += ["--plugin", "lora", "--keep", "difference", "--json"]
    for setting in ("steps=1", "prior_pictures=1", "sampler_steps=1", "lora.rank=2"):
        command += ["--set", setting]
    with pytest.raises(SystemExit):
        main(command)
    (cell,) = json.loads(capsys.readouterr().out)["cells"]
    manifest = json.loads((Path(cell["path"]) / "manifest.json").read_text())
    assert manifest["artifact"]["kind"] == "lora"


def test_a_difference_to_another_architecture_is_refused(bench: Bench, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from apdm_cli.errors import ApdmError

    save_file({"conv_in.weight": torch.zeros(1)}, tmp_path / "unet.safetensors")
    base = load_model(str(bench.run.model), CPU)
    with pytest.raises(ApdmError, match=r"does not fit the model: .*no such weight conv_in"):
        load_attacked(base, Artifact("difference", tmp_path))
