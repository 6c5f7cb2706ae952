"""Every first-party attack keeps the contract that plugin authors test against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from apdm_attacks.custom_diffusion import CustomDiffusion
from apdm_attacks.dreambooth import DreamBooth
from apdm_attacks.dreambooth_text import DreamBoothText
from apdm_attacks.lora import Lora
from apdm_attacks.textual_inversion import TextualInversion
from apdm_cli.diffusion.loading import load_model
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.extension.testing import AttackContract
from tests.tiny import make_tiny_pipeline


class Tiny(AttackContract):
    """The contract on a random-weight model."""

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, tmp_path_factory: pytest.TempPathFactory) -> DiffusionModel:
        folder: Path = make_tiny_pipeline(tmp_path_factory.mktemp("tiny") / "pipeline")
        return load_model(str(folder), torch.device("cpu"))


class TestDreamBooth(Tiny):
    attack = DreamBooth()


class TestDreamBoothText(Tiny):
    attack = DreamBoothText()


class TestLora(Tiny):
    attack = Lora()
    settings: Any = {"rank": 2, "alpha": 8, "convolutions": True, "accumulation": 2}


class TestDora(Tiny):
    attack = Lora()
    settings: Any = {"rank": 2, "alpha": 8, "variant": "dora"}


class TestLoha(Tiny):
    attack = Lora()
    settings: Any = {"rank": 2, "alpha": 8, "variant": "loha"}


class TestLokr(Tiny):
    attack = Lora()
    settings: Any = {"rank": 2, "alpha": 8, "variant": "lokr"}


class TestKohya(Tiny):
    attack = Lora()
    settings: Any = {"rank": 2, "alpha": 8, "export": "kohya"}


class TestTextualInversion(Tiny):
    attack = TextualInversion()
    settings: Any = {"vectors": 3}


class TestTextualInversionOfOneVector(Tiny):
    attack = TextualInversion()
    settings: Any = {"vectors": 1, "keep_norm": False, "learning_rate": 0.5}


class TestCustomDiffusion(Tiny):
    attack = CustomDiffusion()
