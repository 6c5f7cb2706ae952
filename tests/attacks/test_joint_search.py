"""The attacker who searches rate, steps, rank and target together spends one budget, honestly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from apdm_attacks.adaptive import Adaptive
from apdm_attacks.candidates import Candidate, spread
from apdm_attacks.targets import Target
from apdm_cli.config import resolve
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.errors import UsageError
from apdm_cli.extension.attack import Artifact
from apdm_cli.extension.family import load_model
from apdm_cli.harness.execute import run_attack
from apdm_cli.harness.workbench import LOSSES, Workbench
from apdm_cli.randomness import Streams
from apdm_cli.runs.jsonl import read_rows
from apdm_cli.subject import Subject
from apdm_cli.testing import synthetic_photos
from tests.tiny import make_tiny_pipeline

QUICK = {"prior_weight": 0.0, "sampler_steps": 2, "ranks": [2], "pictures": 1}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DiffusionModel:
    folder = tmp_path_factory.mktemp("tiny") / "pipeline"
    make_tiny_pipeline(folder, channels=(32, 32), text_layers=1)
    return load_model(str(folder), torch.device("cpu"))


def _search(
    model: DiffusionModel, folder: Path, answers: Sequence[float] = (), **settings: Any
) -> tuple[Workbench, Artifact]:
    """A search whose judge gives `answers`; without any, the held-out photo judges."""
    given = iter(answers)
    judge = (lambda base, photos: lambda pictures: next(given)) if answers else None
    subject = Subject("s", "person", "sks", synthetic_photos(model.resolution))
    bench = Workbench(model, subject, 0, folder, folder / "cache", judge=judge)
    return bench, run_attack(Adaptive(), bench, resolve(Adaptive.Config, QUICK, settings))


def _spread(seed: int = 0, **settings: Any) -> list[Candidate]:
    targets: tuple[Target, ...] = ("full", "lora", "lora-linear")
    config = resolve(Adaptive.Config, {"candidates": 6, "ranks": [2, 8]}, settings)
    return spread(config, targets, Streams(seed).generator("search"))


def test_candidates_cover_every_setting_evenly() -> None:
    found = _spread(learning_rate=1e-6, highest=1e-1, adapter_rates=10)
    adapted = [one for one in found if one.target != "full"]
    assert sorted(one.target for one in found) == sorted(["full", "lora", "lora-linear"] * 2)
    assert {one.rank for one in adapted} == {2, 8}
    assert {one.rank for one in found if one.target == "full"} == {0}
    own = [one.learning_rate / (1 if one.target == "full" else 10) for one in found]
    assert sorted(own) == pytest.approx([1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1])


def test_candidates_follow_the_seed() -> None:
    assert _spread() == _spread() != _spread(seed=1)


def test_the_best_point_of_all_rungs_is_trained_once_more(
    model: DiffusionModel, tmp_path: Path
) -> None:
    answers = [0.1, 0.9, 0.2, 0.3, 0.5, 0.4, 0.6, 0.8]
    settings: dict[str, Any] = {"targets": ["full", "lora"], "candidates": 4, "steps": 16}
    bench, artifact = _search(model, tmp_path, answers, **settings)
    *tried, last = bench.results["tried"]
    assert [point["similarity"] for point in (*tried, last)] == answers
    assert [point["steps"] for point in tried] == [1, 1, 1, 1, 2, 2, 4]
    rates = [point["learning_rate"] for point in tried]
    assert rates[4:] == [rates[1], rates[3], rates[1]], "the better half goes on"
    chosen = {name: tried[1][name] for name in ("target", "rank", "learning_rate", "steps")}
    assert bench.results["chosen"] == chosen == {name: last[name] for name in chosen}
    assert last["held_out_loss"] is None, "the artifact learns all photos"
    assert artifact.kind == ("pipeline" if chosen["target"] == "full" else "lora")
    steps = [row["step"] for row in read_rows(tmp_path / LOSSES)]
    assert steps == list(range(bench.steps_taken)) == list(range(4 * 1 + 2 * 2 + 4 + 1))


def test_steps_of_a_candidate_that_diverges_count(model: DiffusionModel, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"targets": ["full"], "candidates": 2, "steps": 12}
    bench, _ = _search(model, tmp_path, learning_rate=1e-4, highest=1e25, **settings)
    diverged = [point for point in bench.results["tried"] if point["score"] == -math.inf]
    assert [point["learning_rate"] for point in diverged] == pytest.approx([1e25])
    rows = read_rows(tmp_path / LOSSES)
    lost = [row for row in rows if row["phase"].startswith("full at 1.0e+25")]
    assert 0 < len(lost) < diverged[0]["steps"]
    assert [row["step"] for row in rows] == list(range(bench.steps_taken))
    assert bench.results["chosen"]["learning_rate"] == pytest.approx(1e-4)


def test_cross_attention_alone_is_trained(model: DiffusionModel, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "targets": ["cross-attention"],
        "candidates": 1,
        "steps": 2,
        "highest": 1e-2,
    }
    _, artifact = _search(model, tmp_path, learning_rate=1e-2, **settings)
    (file,) = artifact.path.rglob("*.safetensors")
    before = model.trained.state_dict()
    moved = {name for name, now in load_file(file).items() if not torch.equal(now, before[name])}
    assert moved and all(".attn2." in name for name in moved)


@pytest.mark.parametrize(
    ("target", "layers"),
    [("lora", set()), ("lora-linear", {"ff"}), ("lora-convolutions", {"ff", "conv1"})],
)
def test_adapters_reach_what_their_target_says(
    model: DiffusionModel, tmp_path: Path, target: str, layers: set[str]
) -> None:
    _, artifact = _search(model, tmp_path, targets=[target], candidates=1, steps=2)
    (file,) = artifact.path.rglob("*.safetensors")
    parts = {part for name in load_file(file) for part in name.split(".")}
    assert "to_q" in parts and {"ff", "conv1"} & parts == layers


def test_too_few_steps_are_refused_before_any_is_taken(
    model: DiffusionModel, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="11 are too few to try 4") as refused:
        _search(model, tmp_path, candidates=4, steps=11)
    assert "at least 16" in str(refused.value.hint)
    assert not read_rows(tmp_path / LOSSES)


def test_what_the_model_has_not_is_refused(
    model: DiffusionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apdm_attacks.targets.cross_attention", lambda network: [])
    with pytest.raises(UsageError, match="has no cross-attention"):
        _search(model, tmp_path, targets=["full", "cross-attention"])
