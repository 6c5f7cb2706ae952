"""`apdm evaluate --seed N`: another seed draws other pictures, of everything that is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from apdm_cli.evaluation.evaluate import evaluate_run
from apdm_cli.evaluation.profiles import EvaluationSettings
from tests.evaluation.material import QUICK, Bench


def drawn(bench: Bench, seed: int) -> dict[str, frozenset[bytes]]:
    """Role, label and arm of a row → the pictures that it was scored on."""
    quick: dict[str, Any] = {**QUICK, "metrics": ("dino",), "weights": bench.weights}
    settings = EvaluationSettings(**quick, seed=seed)
    result = evaluate_run(bench.root, bench.run, settings).as_json()
    rows = [row for row in result["rows"] if row["images"]]
    return {
        f"{row['role']} {row['label']} {row['arm']}": _pictures(bench.run.path / row["images"])
        for row in rows
    }


def _pictures(folder: Path) -> frozenset[bytes]:
    return frozenset(file.read_bytes() for file in folder.glob("*.png"))


def test_another_seed_draws_every_picture_anew(bench: Bench) -> None:
    first, second = drawn(bench, 0), drawn(bench, 1)
    roles = {name.split()[0] for name in first}
    assert first.keys() == second.keys() and roles >= {"attack", "utility", "floor"}
    for name, pictures in first.items():
        assert pictures and not pictures & second[name], name


def test_the_same_seed_draws_the_same(bench: Bench) -> None:
    assert drawn(bench, 2) == drawn(bench, 2)
