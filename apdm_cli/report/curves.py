"""Loss curves from the logs of a run, thinned out to what a chart can show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apdm_cli.report.schema import Curve, Line
from apdm_cli.report.scores import EvaluatedRun
from apdm_cli.runs.jsonl import read_rows

POINTS = 120
CONTROL = "_control"
_PROTECTION = ("objective", "preservation", "positive_margin", "negative_margin", "drift")


def read_curves(run: EvaluatedRun, lines: Sequence[Line]) -> list[Curve]:
    """The protection's curve, then the loss of every attack in `lines`, original first.

    Of an attack with several seeds the one whose pictures are shown. Missing logs are left out.
    """
    curves = []
    protection = thin(read_rows(run.run.metrics_log), _PROTECTION)
    if protection:
        steps, values = protection
        seed = int(run.run.manifest.get("seed") or 0)
        curves.append(Curve(label="protection", arm=None, seed=seed, steps=steps, values=values))
    seen = set()
    for line in lines:
        if line.role != "attack" or line.label in seen:
            continue
        seen.add(line.label)
        for row in run.scores.rows:
            if (
                row.role != "attack"
                or (row.attack, row.variant) != (line.attack, line.variant)
                or row.seed != line.pictures.seed
            ):
                continue
            loss = thin(read_rows(cell_folder(run, row.cell, row.arm) / "losses.jsonl"), ("loss",))
            if loss:
                steps, values = loss
                curves.append(
                    Curve(label=line.label, arm=row.arm, seed=row.seed, steps=steps, values=values)
                )
    return sorted(curves, key=lambda curve: curve.arm == "protected")


def cell_folder(run: EvaluatedRun, cell: str | None, arm: str) -> Path:
    """Where an attack's results lie: the control arm is shared by the runs of one root."""
    if arm == "original":
        shared = run.run.path.parent / CONTROL / str(cell)
        if shared.is_dir():
            return shared
    return run.run.attacks / str(cell)


def thin(
    rows: Sequence[dict[str, Any]], names: Sequence[str], points: int = POINTS
) -> tuple[tuple[int, ...], dict[str, tuple[float | None, ...]]] | None:
    """Means over equal blocks of steps: at most `points` of them, step = the block's last.

    Only the `names` that some row has; None without any.
    """
    present = [name for name in names if any(_finite(row.get(name)) for row in rows)]
    if not present:
        return None
    size = math.ceil(len(rows) / points)
    blocks = [rows[start : start + size] for start in range(0, len(rows), size)]
    steps = tuple(int(block[-1].get("index", number)) for number, block in enumerate(blocks))
    values = {name: tuple(_mean([row.get(name) for row in b]) for b in blocks) for name in present}
    return steps, values


def _mean(values: Sequence[Any]) -> float | None:
    finite = [float(value) for value in values if _finite(value)]
    return sum(finite) / len(finite) if finite else None


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
