"""Run `apdm protect` inside this process on a tiny pipeline."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import apdm_cli.protection.l2p as l2p
from apdm_cli.cli.main import main
from tests.tiny import make_photos, make_tiny_pipeline

SHORT = (
    "steps_outer=4",
    "steps_inner=2",
    "prior_pictures=4",
    "sampler_steps=2",
    "learning_rate=1e-3",
    "path.learning_rate=1e-3",
)


UNET = Path("unet", "diffusion_pytorch_model.safetensors")

_made: dict[str, Path] = {}


def pipeline(target: Path, prediction_type: str = "epsilon") -> Path:
    """A copy of the tiny pipeline at `target`, which the caller may break."""
    if prediction_type not in _made:
        folder = Path(tempfile.mkdtemp(prefix="apdm-tests-"))
        _made[prediction_type] = make_tiny_pipeline(
            folder, channels=(16, 32), text_layers=1, prediction_type=prediction_type
        )
    shutil.copytree(_made[prediction_type], target)
    return target


def forget_pipelines() -> None:
    """Delete what `pipeline` copied from."""
    for folder in _made.values():
        shutil.rmtree(folder)
    _made.clear()


class Desk:
    """A folder with a model and photos, from which `protect` starts runs in `runs`."""

    def __init__(self, folder: Path, prediction_type: str = "epsilon") -> None:
        self.folder = folder
        self.model = pipeline(folder / "model", prediction_type)
        self.photos = make_photos(folder / "photos", count=3)
        self.runs = folder / "runs"

    def arguments(self, name: str, *more: str, photos: Path | None = None) -> list[str]:
        """The command line; `more` comes last and wins."""
        settings = [part for setting in SHORT for part in ("--set", setting)]
        return [
            "protect",
            str(photos or self.photos),
            *("--class", "dog", "--model", str(self.model), "--out", str(self.runs)),
            *("--name", name, "--device", "cpu", *settings, *more),
        ]

    def protect(self, name: str, *more: str, photos: Path | None = None) -> int:
        """Run it; returns the exit code."""
        return run(self.arguments(name, *more, photos=photos))

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        """The protected U-Net's tensors."""
        return load_file(self.runs / name / "model" / UNET)

    def moved(self, name: str) -> torch.Tensor:
        """How far all of them are from the original's, one vector."""
        before, after = load_file(self.model / UNET), self.weights(name)
        return torch.cat([(after[key] - before[key]).flatten() for key in before])


@contextlib.contextmanager
def stopped() -> Iterator[None]:
    """SIGTERM arrives in the second outer step of what the block protects."""
    original = l2p.LearningToProtect._summary

    def summary(self: Any, index: int, *rest: Any) -> Any:
        if index == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, index, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(l2p.LearningToProtect, "_summary", summary)
        yield


def run(arguments: list[str]) -> int:
    """`apdm ARGUMENTS`; returns the exit code."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    code = ended.value.code
    assert code is None or isinstance(code, int)
    return code or 0


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether two sets of tensors are equal, bit for bit."""
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )
