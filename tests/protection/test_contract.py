"""The first-party protections keep to the contract that every other one has."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch

from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.extension.family import load_model
from apdm_cli.testing import ProtectionContract
from apdm_protections.apdm import APDM
from apdm_protections.naive import Naive
from tests.protection.commands import forget_pipelines, pipeline


class _OnTinyModel(ProtectionContract):
    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, tmp_path_factory: pytest.TempPathFactory) -> Any:
        folder = pipeline(tmp_path_factory.mktemp("model") / "tiny")
        model: DiffusionModel = load_model(str(folder), torch.device("cpu"))
        yield model
        forget_pipelines()


PERSISTENT: dict[str, Any] = {
    "steps_outer": 3,
    "compiled": "off",
    "batch_size": 1,
    "learning_rate": 1e-3,
    "average_last": 0.5,
    "path": {"batch_size": 1, "learning_rate": 1e-3},
    "attackers": {"count": 2, "ages": [1, 3]},
    "others": {
        "every": 1,
        "count": 2,
        "ages": [1, 3],
        "pictures": 2,
        "batch_size": 1,
        "captions": "traits",
    },
    "preservation": {
        "batch_size": 1,
        "captions": "general",
        "class_samples": 2,
        "caption_samples": 2,
    },
}


class TestAPDM(_OnTinyModel):
    """Everything on: persistent attackers, relative margins, learners of others, an average."""

    protection = APDM()
    settings: ClassVar = PERSISTENT


class TestAPDMWithAdapters(_OnTinyModel):
    """Attackers of several kinds: adapters, a text encoder, a new word, one photo."""

    protection = APDM()
    settings: ClassVar = {
        **PERSISTENT,
        "others": {"count": 0},
        "attackers": {
            "count": 3,
            "ages": [1, 2],
            "pool": [
                {"attack": "lora", "settings": {"learning_rate": 1e-2}},
                {"attack": "dreambooth-text", "identifier": "zwx"},
                {"attack": "textual-inversion", "settings": {"learning_rate": 1e-2}},
                {"attack": "dreambooth", "photos": 1, "settings": {"prior_weight": 0.0}},
            ],
        },
    }


class TestPaper(_OnTinyModel):
    """The paper's loop, with adapters in the path."""

    protection = APDM()
    settings: ClassVar = {
        "steps_outer": 3,
        "steps_inner": 2,
        "compiled": "off",
        "attackers": {"kind": "restart"},
        "path": {"attack": "lora", "settings": {"rank": 2, "learning_rate": 1e-2}},
        "preservation": {"kind": "class-pictures"},
    }


class TestAPDMAsAdapter(_OnTinyModel):
    """A difference moves; one attacker trains all weights and one adapters."""

    protection = APDM()
    settings: ClassVar = {
        **PERSISTENT,
        "train": "adapter",
        "adapter": {"rank": 2, "alpha": 2},
        "attackers": {
            "count": 2,
            "ages": [1, 2],
            "pool": [{"attack": "dreambooth"}, {"attack": "lora"}],
        },
    }


class TestNaiveAsAdapter(_OnTinyModel):
    """Any protection that trains the bench's weights."""

    protection = Naive()
    settings: ClassVar = {"steps": 3, "train": "adapter", "adapter": {"targets": "attention"}}


class TestNaive(_OnTinyModel):
    """Gradient ascent."""

    protection = Naive()
    settings: ClassVar = {"steps": 3}
