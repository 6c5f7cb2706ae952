"""Budgets in an evaluation: a row for each, and two evaluations at once."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from apdm_cli.cli.main import main
from apdm_cli.evaluation.evaluate import evaluate_run
from apdm_cli.evaluation.forecast import forecast_evaluation
from apdm_cli.evaluation.profiles import EvaluationSettings
from apdm_cli.extension.manager import build_plugin_manager
from apdm_cli.progress import Silent
from apdm_cli.runs.lock import FolderLock
from apdm_cli.runs.run import Run
from tests.evaluation.material import CPU, QUICK, Bench

ATTACK = ("--set", "steps=2", "--set", "prior_pictures=1", "--set", "sampler_steps=1")
PICTURES = ("--images", "4", "--sampler", "ddim", "--sampler-steps", "2")


class Noting(Silent):
    def __init__(self) -> None:
        self.sentences: list[str] = []

    def said(self, sentence: str) -> None:
        self.sentences.append(sentence)


@pytest.fixture
def attacked(bench: Bench) -> Bench:
    """The bench's run, attacked once more with three budgets."""
    with pytest.raises(SystemExit) as ended:
        main(["attack", "run", "--out", str(bench.root), "--device", "cpu", "--plugin", "lora",
              "--set", "lora.rank=2", "--budgets", "0.5,1,2", *ATTACK, *PICTURES])  # fmt: skip
    assert not ended.value.code
    return bench


def _rows(
    bench: Bench, progress: Any = None, dtype: torch.dtype = torch.float32, **changes: Any
) -> list[Any]:
    settings = EvaluationSettings(
        **{"metrics": ("dino",), "weights": bench.weights, **QUICK, **changes}
    )
    run = Run.open(bench.root, "run")
    found = evaluate_run(bench.root, run, settings, progress, device=CPU, dtype=dtype).rows
    return [row for row in found if row.attack == "lora"]


def test_every_budget_is_a_row(attacked: Bench) -> None:
    rows = _rows(attacked)
    assert [(row.arm, row.budget, row.steps) for row in rows] == [
        (arm, budget, steps)
        for arm in ("original", "protected")
        for budget, steps in ((0.5, 1), (1.0, 2), (2.0, 4))
    ]
    assert [row.label for row in rows[:3]] == [
        "lora, steps=2, prior_pictures=1, sampler_steps=1, rank=2, 0.5 × the steps",
        "lora, steps=2, prior_pictures=1, sampler_steps=1, rank=2",
        "lora, steps=2, prior_pictures=1, sampler_steps=1, rank=2, 2 × the steps",
    ]
    for row in rows:
        pictures = sorted((attacked.run.path / str(row.images)).glob("*.png"))
        assert len(pictures) == 4
        Image.open(pictures[0]).verify()
    assert len({row.images for row in rows}) == 6
    values = [row.scores[0].value for row in rows]
    assert len(set(values)) == 6, "every budget shows other pictures"


def test_pictures_on_the_way_are_those_that_an_evaluation_draws_at_the_end(
    attacked: Bench,
) -> None:
    """The pictures at budget 1 are those of an attack with budget 1, bit for bit."""
    before = {row.arm: row.scores for row in _rows(attacked) if row.budget == 1}
    for folder in (attacked.root / "_control", attacked.run.attacks):
        for cell in folder.glob("lora-*"):
            shutil.rmtree(cell)
    with pytest.raises(SystemExit):
        main(["attack", "run", "--out", str(attacked.root), "--device", "cpu", "--plugin", "lora",
              "--set", "lora.rank=2", *ATTACK])  # fmt: skip
    alone = {row.arm: row.scores for row in _rows(attacked)}
    assert alone == before


def test_other_settings_than_those_of_the_attack_leave_its_early_budgets_out(
    attacked: Bench,
) -> None:
    kept = {file: file.read_bytes() for file in attacked.root.rglob("stops/**/*.png")}
    noting = Noting()
    rows = _rows(attacked, noting, images=3)
    assert [row.budget for row in rows] == [2.0, 2.0]
    said = [sentence for sentence in noting.sentences if "is left out" in sentence]
    assert len(said) == 2  # one for each model, for all its budgets
    assert all("at 0.5, 1 × the steps is left out: " in sentence for sentence in said)
    assert all("apdm attack" in sentence for sentence in said)
    assert kept == {file: file.read_bytes() for file in kept}, "they cannot be drawn again"


def test_pictures_on_the_way_are_those_of_the_precision_that_they_were_drawn_in(
    attacked: Bench,
) -> None:
    noting = Noting()
    exact = _rows(attacked)
    lower = _rows(attacked, noting, dtype=torch.bfloat16)
    assert [row.budget for row in lower] == [2.0, 2.0]
    said = [sentence for sentence in noting.sentences if "is left out" in sentence]
    assert len(said) == 2 and all("--dtype" in sentence for sentence in said)
    again = _rows(attacked)
    assert [row.scores for row in again] == [row.scores for row in exact]
    shared = [row.images for row in (*exact, *lower) if row.arm == "original" and row.budget == 2]
    assert len(set(shared)) == 2, "the original's pictures, which other runs read, are kept apart"


def test_pictures_on_the_way_are_of_their_cells_precision_where_they_name_none(
    attacked: Bench,
) -> None:
    for folder in (attacked.root / "_control", attacked.run.attacks):
        for file in folder.glob("lora-*/manifest.json"):
            file.write_text(file.read_text().replace('"float32"', '"bfloat16"'))
    noting = Noting()
    assert [row.budget for row in _rows(attacked, noting)] == [2.0, 2.0]
    assert len([one for one in noting.sentences if "at 0.5, 1 × the steps is left out" in one]) == 2


def test_the_command_that_comes_next_names_the_precision(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["attack", "run", "--out", str(bench.root), "--device", "cpu", "--plugin", "lora",
              "--no-control", "--dtype", "bf16", *ATTACK, *PICTURES])  # fmt: skip
    shown = capsys.readouterr().out
    (following,) = [line for line in shown.splitlines() if line.startswith("Next: ")]
    assert " --steps 2 --dtype bf16 --out " in following


def test_the_command_that_comes_next_scores_the_early_budgets_too(
    attacked: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    with pytest.raises(SystemExit):  # every cell is finished
        main(["attack", "run", "--out", str(attacked.root), "--device", "cpu", "--plugin", "lora",
              "--set", "lora.rank=2", "--budgets", "0.5,1,2", *ATTACK, *PICTURES])  # fmt: skip
    shown = capsys.readouterr().out
    (following,) = [line for line in shown.splitlines() if line.startswith("Next: ")]
    assert shlex.split(following)[1:] == [
        "apdm", "evaluate", "run", "--images", "4", "--sampler", "ddim", "--steps", "2",
        "--out", str(attacked.root),
    ]  # fmt: skip


def test_without_its_model_an_attack_is_scored_at_the_budgets_that_have_pictures(
    attacked: Bench,
) -> None:
    for folder in (attacked.root / "_control", attacked.run.attacks):
        for cell in folder.glob("lora-*"):
            shutil.rmtree(cell / "artifact")
    foreseen = forecast_evaluation(
        attacked.root,
        Run.open(attacked.root, "run"),
        EvaluationSettings(metrics=("dino",), weights=attacked.weights, **QUICK),
        build_plugin_manager(),
        device=CPU,
        dtype=torch.float32,
    )
    noting = Noting()
    assert [row.budget for row in _rows(attacked, noting)] == [0.5, 1.0] * 2
    said = [sentence for sentence in noting.sentences if "is left out" in sentence]
    assert len(said) == 2 and all("at 2 × the steps is left out" in one for one in said)
    assert foreseen.rows == 2 + 4 and len(foreseen.left_out) == 2  # 2 of the bench's own attack


@pytest.mark.skipif(sys.platform == "win32", reason="folders are not locked there")
def test_a_second_evaluation_waits_for_the_first(bench: Bench) -> None:
    folder: Path = bench.run.evaluation
    folder.mkdir(exist_ok=True)
    other = FolderLock(folder)

    class Releasing(Noting):
        def said(self, sentence: str) -> None:
            super().said(sentence)
            other.release()

    progress = Releasing()
    _rows(bench, progress)
    assert progress.sentences[0] == "Waiting: another apdm process evaluates run just now."
    assert (folder / "scores.json").is_file()
