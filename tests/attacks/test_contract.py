"""Every first-party attack keeps the contract that plugin authors test against."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
import torch

from apdm_attacks.adaptive import Adaptive
from apdm_attacks.adaptive_lr import AdaptiveLR
from apdm_attacks.adaptive_objective import AdaptiveObjective
from apdm_attacks.custom_diffusion import CustomDiffusion
from apdm_attacks.dreambooth import DreamBooth
from apdm_attacks.dreambooth_text import DreamBoothText
from apdm_attacks.heal import Heal
from apdm_attacks.lora import Lora
from apdm_attacks.pivotal_tuning import PivotalTuning
from apdm_attacks.rounds import Rounds
from apdm_attacks.textual_inversion import TextualInversion
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.extension.family import load_model
from apdm_cli.testing import AttackContract
from tests.tiny import make_tiny_pipeline


class Tiny(AttackContract):
    """The contract on a random-weight model."""

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, tmp_path_factory: pytest.TempPathFactory) -> DiffusionModel:
        folder: Path = make_tiny_pipeline(
            tmp_path_factory.mktemp("tiny") / "pipeline", channels=(32, 32), text_layers=1
        )
        return load_model(str(folder), torch.device("cpu"))


def test_custom_diffusion_has_the_rate_and_the_steps_of_diffusers_example() -> None:
    attack = CustomDiffusion()
    full = attack.configure("", [], {})
    assert full.learning_rate == pytest.approx(1e-5 * full.batch_size * 2) and full.steps == 250
    pocket = attack.configure("pocket", [], {})
    assert (pocket.learning_rate, pocket.steps) == (1e-3, 150)


class TestDreamBooth(Tiny):
    attack = DreamBooth()


class TestDreamBoothText(Tiny):
    attack = DreamBoothText()


class TestLora(Tiny):
    attack = Lora()
    settings: ClassVar = {"rank": 2, "alpha": 8, "convolutions": True, "accumulation": 2}


class TestDora(Tiny):
    attack = Lora()
    settings: ClassVar = {"rank": 2, "alpha": 8, "variant": "dora"}


class TestLoha(Tiny):
    attack = Lora()
    settings: ClassVar = {"rank": 2, "alpha": 8, "variant": "loha"}


class TestLokr(Tiny):
    attack = Lora()
    settings: ClassVar = {"rank": 2, "alpha": 8, "variant": "lokr"}


class TestLoraOnEverything(Tiny):
    attack = Lora()
    settings: ClassVar = {
        **{"rank": 4, "alpha": 1, "init": "kaiming", "convolutions": True, "convolution_rank": 2},
        **{"feed_forward": True, "projections": True, "time_embedding": True},
        **{"learning_rate": 0.05},
    }


class TestKohya(Tiny):
    attack = Lora()
    settings: ClassVar = {"rank": 2, "alpha": 8, "export": "kohya"}


class TestTextualInversion(Tiny):
    attack = TextualInversion()
    settings: ClassVar = {"vectors": 3}


class TestTextualInversionOfOneVector(Tiny):
    attack = TextualInversion()
    settings: ClassVar = {"vectors": 1, "keep_norm": False, "learning_rate": 0.5}


class TestCustomDiffusion(Tiny):
    attack = CustomDiffusion()


class TestPivotalTuning(Tiny):
    attack = PivotalTuning()
    settings: ClassVar = {"rank": 2, "alpha": 8, "learning_rate": 0.05}


class TestCosine(Tiny):
    """Its rate depends on the last step: every budget is a training of its own."""

    attack = DreamBooth()
    settings: ClassVar = {"schedule": "cosine", "warm_up": 1, "huber": 0.1, "caption_dropout": 0.5}


class TestAdaptiveLR(Tiny):
    attack = AdaptiveLR()
    settings: ClassVar = {"steps": 8, "rates": 2}


class TestAdaptiveLROverLora(Tiny):
    attack = AdaptiveLR()
    settings: ClassVar = {"steps": 4, "rates": 2, "attack": "lora", "rank": 2}


class TestAdaptive(Tiny):
    attack = Adaptive()
    settings: ClassVar = {
        **{"steps": 6, "candidates": 2, "ranks": [2], "targets": ["full", "lora-convolutions"]},
    }


class TestWeightNoise(Tiny):
    attack = AdaptiveObjective()
    settings: ClassVar = {"variant": "weight-noise"}


class TestRebalance(Tiny):
    attack = AdaptiveObjective()
    settings: ClassVar = {"variant": "rebalance"}


class TestEma(Tiny):
    attack = AdaptiveObjective()
    settings: ClassVar = {"variant": "ema"}


class TestWarmUp(Tiny):
    """Its rate depends on the last step: every budget is a training of its own."""

    attack = AdaptiveObjective()
    settings: ClassVar = {"variant": "warm-up"}


class TestHeal(Tiny):
    attack = Heal()
    settings: ClassVar = {"heal_steps": 2, "heal_pictures": 3}


class TestHealThenLora(Tiny):
    attack = Heal()
    settings: ClassVar = {"heal_steps": 2, "heal_pictures": 3, "attack": "lora", "rank": 2}


class TestRounds(Tiny):
    attack = Rounds()
    settings: ClassVar = {"rounds": 2}


class TestRoundsOfLora(Tiny):
    attack = Rounds()
    settings: ClassVar = {"rounds": 2, "attack": "lora", "rank": 2, "alpha": 8}


class TestRoundsOfAdaptiveObjective(Tiny):
    """Another attack's start is moved once, before the first round."""

    attack = Rounds()
    settings: ClassVar = {"rounds": 2, "attack": "adaptive-objective", "variant": "weight-noise"}
