"""Every metric that comes with apdm keeps to the contract that plugin authors are given."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.extension.metric import Metric, MetricUnavailable
from apdm_cli.testing import MetricContract
from apdm_metrics.distances import Fid, Kid
from apdm_metrics.quality import Brisque, BrisquePaper
from apdm_metrics.similarity import Dino, Diversity, SameSeed


class OnTinyModel(MetricContract):
    """The contract on a random extractor: seconds, and no weights needed."""

    @pytest.fixture
    def model(self, tiny_model: DiffusionModel) -> DiffusionModel:
        return tiny_model

    @pytest.fixture
    def ready(self, model: DiffusionModel, vit: Path) -> Metric:
        self.metric.weights = {"pocket-vit": str(vit)}
        try:
            self.metric.prepare(model, torch.device("cpu"))
        except MetricUnavailable as reason:
            pytest.skip(str(reason))
        return self.metric


class TestDino(OnTinyModel):
    metric = Dino()


class TestDiversity(OnTinyModel):
    metric = Diversity()


class TestSameSeed(OnTinyModel):
    metric = SameSeed()


class TestFid(OnTinyModel):
    metric = Fid()


class TestKid(OnTinyModel):
    metric = Kid()


class TestBrisque(OnTinyModel):
    metric = Brisque()


class TestBrisquePaper(OnTinyModel):
    metric = BrisquePaper()
