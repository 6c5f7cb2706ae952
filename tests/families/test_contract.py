"""The shipped contract tests hold for the first-party family and for one of another kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from apdm_cli.testing import FamilyContract
from apdm_families.stable_diffusion import StableDiffusion
from apdm_families.stable_diffusion_xl import StableDiffusionXL
from tests.families.tiny_xl import make_tiny_xl
from tests.families.toy_flow import ToyFlow, make_toy_flow
from tests.tiny import make_tiny_pipeline


class TestStableDiffusion(FamilyContract):
    family = StableDiffusion()

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return make_tiny_pipeline(tmp_path_factory.mktemp("sd"), channels=(32, 32), text_layers=1)


class TestStableDiffusion2(FamilyContract):
    """Version 2 predicts the velocity."""

    family = StableDiffusion()

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return make_tiny_pipeline(
            tmp_path_factory.mktemp("sd2"),
            channels=(32, 32),
            text_layers=1,
            prediction_type="v_prediction",
            unet={"use_linear_projection": True},
        )


class TestStableDiffusionXL(FamilyContract):
    family = StableDiffusionXL()

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return make_tiny_xl(tmp_path_factory.mktemp("sdxl") / "model")


class TestToyFlow(FamilyContract):
    family = ToyFlow()

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return make_toy_flow(tmp_path_factory.mktemp("toy") / "model")
