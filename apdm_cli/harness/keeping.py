"""How much of an attacked model a cell keeps: all of it, what was moved, or what it draws."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from torch import nn

from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.picture_cache import gallery
from apdm_cli.diffusion.weight_differences import save_differences
from apdm_cli.extension.attack import Artifact, Attack
from apdm_cli.harness.artifacts import load_attacked
from apdm_cli.harness.stops import stop_folder
from apdm_cli.harness.workbench import Workbench

Keep = Literal["artifact", "difference", "pictures"]
KEEP: tuple[Keep, ...] = get_args(Keep)


def as_difference(artifact: Artifact, base: DiffusionModel) -> Artifact:
    """`artifact`, in its place, as its difference to `base`, where it is whole components.

    What is small already, or holds more than moved weights, stays as it is.
    """
    if artifact.kind != "pipeline" or not _is_weights(artifact.path, base):
        return artifact
    smaller = artifact.path.with_name(f"{artifact.path.name}-difference")
    shutil.rmtree(smaller, ignore_errors=True)
    smaller.mkdir()
    try:
        save_differences(load_attacked(base, artifact), base, smaller)
    except ValueError:
        shutil.rmtree(smaller)
        return artifact
    shutil.rmtree(artifact.path)
    smaller.rename(artifact.path)
    return Artifact("difference", artifact.path)


def draw_and_drop(
    artifact: Artifact, bench: Workbench, available: Mapping[str, Attack] | None
) -> None:
    """Draw what the attacked model shows at its last budget, and remove the artifact."""
    assert bench.drawing is not None
    order = bench.drawing.order(bench.base, bench.prompt_word, bench.subject.class_noun)
    bench.progress.stage("pictures", len(order.prompts), unit="pictures")
    gallery(
        order,
        stop_folder(bench.folder, bench.budgets[-1]),
        lambda: load_attacked(bench.base, artifact, available),
        bench.drawn,
    )
    shutil.rmtree(artifact.path)


def _is_weights(folder: Path, base: DiffusionModel) -> bool:
    """Whether everything in an artifact is a network that `base` has, too."""
    parts = [path.name for path in folder.iterdir()]
    return all(isinstance(base.components.get(name), nn.Module) for name in parts)
