"""Where an attack starts that goes part of the way back to the original."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from apdm_attacks.variants import move_start
from apdm_cli.extension.family import load_model
from apdm_cli.harness.workbench import Workbench
from apdm_cli.subject import Subject
from apdm_cli.testing import synthetic_photos
from tests.tiny import make_tiny_pipeline


@pytest.mark.parametrize("amount", [0.0, 0.25, 1.0])
def test_interpolate_goes_from_the_attacked_towards_the_original(
    amount: float, tmp_path: Path
) -> None:
    folders = [
        make_tiny_pipeline(tmp_path / f"{seed}", channels=(32, 32), text_layers=1, seed=seed)
        for seed in (0, 1)
    ]
    attacked, original = (load_model(str(folder), torch.device("cpu")) for folder in folders)
    subject = Subject("s", "person", "sks", synthetic_photos(attacked.resolution))
    (tmp_path / "cell").mkdir()
    bench = Workbench(
        attacked, subject, 0, tmp_path / "cell", tmp_path / "cache", load_original=lambda: original
    )
    move_start(bench, "interpolate", amount)
    three = zip(
        bench.model.trained.parameters(),
        attacked.trained.parameters(),
        original.trained.parameters(),
        strict=True,
    )
    for moved, start, end in three:
        assert torch.allclose(moved, (1 - amount) * start + amount * end, atol=1e-6)
