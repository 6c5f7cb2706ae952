"""A tiny model whose pictures the metrics score, and a random extractor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.extension.family import load_model
from tests.metrics.material import make_vit
from tests.tiny import make_tiny_pipeline


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> DiffusionModel:
    folder = make_tiny_pipeline(tmp_path_factory.mktemp("tiny"))
    return load_model(str(folder), torch.device("cpu"))


@pytest.fixture(scope="session")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_vit(tmp_path_factory.mktemp("vit"))


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No test asks the network, nor finds what this machine's caches hold."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch-home"))
    yield
