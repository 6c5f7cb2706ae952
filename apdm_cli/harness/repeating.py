"""An attack that would repeat its own control: it is copied, not trained a second time.

Where photos are protected both arms are one model. An attacker who has other photos than those, or
a neighbour who is taught, then does in both arms the very same thing.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from apdm_cli.harness.plan import CONTROL, PlannedCell
from apdm_cli.runs.cells import Cell
from apdm_cli.runs.manifest import MANIFEST, read_manifest

_OWN = shutil.ignore_patterns(MANIFEST, "images")  # what `apdm evaluate` drew is the control's


def control_of(planned: PlannedCell, root: Path) -> PlannedCell | None:
    """The original's cell that `planned` would repeat; None where it is another attack."""
    if planned.control != planned.cell.key:
        return None
    return replace(planned, arm="original", cell=Cell(root / CONTROL, planned.control))


def is_whole(control: PlannedCell) -> bool:
    """Whether `control` is finished and nothing of it was cleaned away."""
    if not control.finished:
        return False
    artifact = read_manifest(control.cell.path).get("artifact")
    return artifact is None or (control.cell.path / artifact["path"]).is_dir()


def copy_result(control: PlannedCell, folder: Path) -> None:
    """Everything that the attack left in `control`, into the cell's own `folder`."""
    shutil.copytree(control.cell.path, folder, ignore=_OWN, dirs_exist_ok=True)
