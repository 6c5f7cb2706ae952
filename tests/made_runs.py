"""Runs as the commands leave them, made of a few bytes, for what only looks at files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apdm_cli.errors import ApdmError
from apdm_cli.runs.cells import Cell
from apdm_cli.runs.manifest import write_json_atomic
from apdm_cli.runs.run import Run
from apdm_cli.subject import SubjectRecord

MODEL = {"source": "pocket", "revision": None, "digest": "a" * 64}
SUBJECT = {"name": "ann", "class_noun": "person", "identifier": "sks", "photos": {"files": []}}
ARTIFACT_BYTES, PICTURE_BYTES, MODEL_BYTES = 3000, 200, 5000


def make_run(
    root: Path,
    name: str,
    digest: str = "a" * 64,
    done: bool = True,
    photos: Path | None = None,
) -> Run:
    """A protect run with a model in it; running (and held by nobody) when it is not `done`.

    Args:
        photos: folder of those that it was made of; without it the run knows of none.
    """
    subject: Mapping[str, Any] = SUBJECT
    if photos is not None:
        subject = SubjectRecord.read("ann", "person", "sks", [photos]).as_manifest()
    run = Run.create(root, name, model={**MODEL, "digest": digest}, subject=subject, seed=0)
    write(run.model / "weights.safetensors", MODEL_BYTES)
    if done:
        run.finish(duration_seconds=1.0, summary={})
    run.release()
    return run


def add_attack(run: Run, key: str, control: str | None = None) -> Path:
    """A finished cell on the protected model and, unless it is there, its control."""
    if control is not None and not (run.path.parent / "_control" / control).exists():
        original = {"arm": "original", "model": run.manifest["model"]}
        make_cell(run.path.parent / "_control", control, original, pictures=True)
    write(run.evaluation / "images" / key / "0000.png", PICTURE_BYTES)
    return make_cell(run.attacks, key, {"arm": "protected", "control": control})


def make_cell(folder: Path, key: str, fields: Mapping[str, Any], pictures: bool = False) -> Path:
    cell = Cell(folder, key)
    with cell.writing() as inside:
        artifact = {"kind": "pipeline", "path": "artifact"}
        manifest = {"kind": "attack", "attack": "lora", "artifact": artifact, **fields}
        write_json_atomic(inside / "manifest.json", manifest)
        write(inside / "artifact" / "weights.safetensors", ARTIFACT_BYTES)
        if pictures:
            write(inside / "images" / "abc" / "0000.png", PICTURE_BYTES)
    return cell.path


def fail_attack(run: Run, key: str) -> Path:
    cell = Cell(run.attacks, key)
    cell.begin()
    cell.fail(ApdmError("loss is NaN"))
    return cell.partial


def interrupt_attack(run: Run, key: str) -> Path:
    """A cell that a killed process left: partial, and held by nobody."""
    folder = run.attacks / f"{key}.partial"
    write(folder / "losses.jsonl", 10)
    return folder


def compare(run: Run, verdict: str) -> None:
    text = json.dumps({"schema": 1, "runs": [{"name": run.name, "verdict": verdict}]})
    (run.path / "comparison.json").write_text(text, encoding="utf-8")


def write(file: Path, size: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"x" * size)
