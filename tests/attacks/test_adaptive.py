"""What the attackers who know the defence do differently."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from apdm_attacks.adaptive_lr import AdaptiveLR
from apdm_attacks.adaptive_objective import AdaptiveObjective
from apdm_attacks.heal import Heal
from apdm_attacks.lora import Lora
from apdm_attacks.rounds import Rounds
from apdm_attacks.variants import CHANGES, Variant, changed_settings, move_start
from apdm_cli.config import resolve
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.errors import ApdmError, UsageError
from apdm_cli.extension.family import load_model
from apdm_cli.harness.execute import run_attack
from apdm_cli.harness.suites import load_suite
from apdm_cli.harness.workbench import LOSSES, Workbench
from apdm_cli.personalization.loop import NonFiniteLoss
from apdm_cli.runs.jsonl import read_rows
from apdm_cli.subject import Subject
from apdm_cli.testing import synthetic_photos
from tests.tiny import make_photos, make_tiny_pipeline

QUICK = {"steps": 2, "prior_pictures": 2, "sampler_steps": 2, "learning_rate": 1e-4}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DiffusionModel:
    folder = tmp_path_factory.mktemp("tiny") / "pipeline"
    make_tiny_pipeline(folder, channels=(32, 32), text_layers=1)
    return load_model(str(folder), torch.device("cpu"))


def _bench(model: DiffusionModel, folder: Path, **options: Any) -> Workbench:
    subject = Subject("s", "person", "sks", synthetic_photos(model.resolution))
    return Workbench(model, subject, 0, folder, folder / "cache", **options)


def test_the_search_is_recorded_and_uses_similarity(model: DiffusionModel, tmp_path: Path) -> None:
    answers = iter([0.1, 0.9, 0.5])
    seen = []

    def judge(base: DiffusionModel, photos: torch.Tensor) -> Any:
        seen.append(photos)
        return lambda pictures: next(answers)

    config = resolve(AdaptiveLR.Config, QUICK, {"steps": 8, "rates": 2, "pictures": 2})
    bench = _bench(model, tmp_path, judge=judge)
    run_attack(AdaptiveLR(), bench, config)
    tried = bench.results["tried"]
    assert [point["similarity"] for point in tried] == [0.1, 0.9, 0.5]
    assert bench.results["learning_rate"] == tried[1]["value"] == tried[2]["value"]
    assert tried[0]["held_out_loss"] > 0 and tried[2]["held_out_loss"] is None
    assert seen[0].dtype == torch.uint8 and seen[0].shape[-1] == 3


def test_without_an_extractor_the_held_out_loss_decides(
    model: DiffusionModel, tmp_path: Path
) -> None:
    config = resolve(AdaptiveLR.Config, QUICK, {"steps": 8, "rates": 2})
    bench = _bench(model, tmp_path)
    run_attack(AdaptiveLR(), bench, config)
    first, second, last = bench.results["tried"]
    assert first["score"] == -first["held_out_loss"]
    better = min((first, second), key=lambda point: point["held_out_loss"])
    assert last["value"] == better["value"]


def test_a_rate_that_diverges_loses_and_is_on_record(model: DiffusionModel, tmp_path: Path) -> None:
    settings = {"steps": 12, "rates": 2, "learning_rate": 1e-4, "highest": 1e25}
    bench = _bench(model, tmp_path)
    run_attack(AdaptiveLR(), bench, resolve(AdaptiveLR.Config, QUICK, settings))
    kept, diverged, last = bench.results["tried"]
    assert (diverged["value"], diverged["score"]) == (pytest.approx(1e25), -math.inf)
    assert "held_out_loss" not in diverged
    assert bench.results["learning_rate"] == last["value"] == kept["value"] == pytest.approx(1e-4)


def test_where_every_rate_diverges_the_attack_fails(model: DiffusionModel, tmp_path: Path) -> None:
    settings = {"steps": 4, "rates": 1, "learning_rate": 1e25}
    with pytest.raises(NonFiniteLoss):
        run_attack(
            AdaptiveLR(), _bench(model, tmp_path), resolve(AdaptiveLR.Config, QUICK, settings)
        )


def test_healing_comes_first_and_has_no_prior(model: DiffusionModel, tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "others")
    settings = {"heal_steps": 3, "heal_from": str(photos)}
    (tmp_path / "cell").mkdir()
    run_attack(Heal(), _bench(model, tmp_path / "cell"), resolve(Heal.Config, QUICK, settings))
    phases = [row["phase"] for row in read_rows(tmp_path / "cell" / LOSSES)]
    assert phases == ["heal"] * 3 + ["attack"] * 2


def test_every_round_leaves_its_artifact(model: DiffusionModel, tmp_path: Path) -> None:
    bench = _bench(model, tmp_path)
    run_attack(Rounds(), bench, resolve(Rounds.Config, QUICK, {"rounds": 2}))
    assert [entry["path"] for entry in bench.results["series"]] == ["rounds/1", "rounds/2"]
    for entry in bench.results["series"]:
        assert (tmp_path / entry["path"] / "unet" / "config.json").is_file()


def test_every_variant_changes_something() -> None:
    moves = {"description", "weight-noise", "interpolate", "rebalance", "warm-up"}
    assert set(get_args(Variant)) == moves | set(CHANGES)


def test_the_suite_runs_every_variant_that_needs_no_original() -> None:
    chosen = {
        entry.set["variant"]
        for entry in load_suite("full").attack
        if entry.name == "adaptive-objective"
    }
    assert chosen == set(get_args(Variant)) - {"interpolate"}


def test_factors_scale_what_is_configured(model: DiffusionModel, tmp_path: Path) -> None:
    def changed(variant: str) -> dict[str, Any]:
        settings = {"variant": variant, "learning_rate": 1e-4, "batch_size": 2}
        config = resolve(AdaptiveObjective.Config, settings)
        return changed_settings(_bench(model, tmp_path), config)

    assert changed("large-batch") == {"batch_size": 8}
    assert changed("lion")["learning_rate"] == pytest.approx(4e-5)
    assert changed("sgd")["learning_rate"] > 1e-4
    assert changed("class-prompt") == {"prior_weight": 0.0}
    assert changed("description") == {}


@pytest.mark.parametrize(("variant", "word"), [("class-prompt", ""), ("description", "red hat")])
def test_prompts_without_the_identifier(
    model: DiffusionModel, tmp_path: Path, variant: str, word: str
) -> None:
    config = resolve(AdaptiveObjective.Config, QUICK, {"variant": variant, "words": "red hat"})
    bench = _bench(model, tmp_path)
    run_attack(AdaptiveObjective(), bench, config)
    assert bench.prompt_word == word


def test_warm_up_rises_and_falls() -> None:
    config = resolve(AdaptiveObjective.Config, {"variant": "warm-up", "steps": 100})
    rates = [AdaptiveObjective().learning_rate(step, config) for step in range(100)]
    assert rates[0] < rates[9] and rates[99] < rates[50] < rates[10]
    assert sum(rates) / 100 == pytest.approx(config.learning_rate, rel=0.15)


def test_weight_noise_has_the_size_that_it_says(model: DiffusionModel, tmp_path: Path) -> None:
    bench = _bench(model, tmp_path)
    move_start(bench, "weight-noise", 0.5)
    pairs = zip(bench.model.trained.parameters(), model.trained.parameters(), strict=True)
    ratios = [
        float((a - b).detach().norm() / b.detach().norm()) for a, b in pairs if b.numel() > 1000
    ]
    assert sum(ratios) / len(ratios) == pytest.approx(0.05, rel=0.05)


def test_interpolation_needs_the_original(model: DiffusionModel, tmp_path: Path) -> None:
    with pytest.raises(ApdmError, match="original"):
        move_start(_bench(model, tmp_path), "interpolate", 0.5)


@pytest.mark.parametrize(
    "settings",
    [
        {"variant": "loha", "text_encoder": True},
        {"variant": "dora", "export": "kohya"},
        {"rank": 0},
    ],
)
def test_lora_options_that_do_not_fit_together(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        resolve(Lora.Config, settings)
