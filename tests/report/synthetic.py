"""Runs as `protect`, `attack` and `evaluate` leave them, made up: numbers, logs, tiny pictures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from apdm_cli.report.schema import Line, Metric
from apdm_cli.scores import MetricMeaning
from apdm_metrics import apdm_metrics

BACKEND = {"name": "pocket-extractor", "digest": "ab12cd34ef56ab12cd34ef56"}
# What first-party metrics declare; a test of the report needs no metric to run.
METRICS = [metric.meaning for metric in apdm_metrics()]
REPORTED = [
    Metric(
        metric=meaning.name,
        backend="",
        digest="",
        n=30,
        **meaning.model_dump(exclude={"name", "better", "better_for_others"}),
    )
    for meaning in METRICS
]
Painter = Callable[[str, int], Image.Image]


def score(
    value: float | None,
    metric: str = "dino",
    *,
    spread: float | None = 0.05,
    n: int = 30,
    skipped: int = 0,
    backend: dict[str, str] | None = None,
) -> dict[str, Any]:
    ends = (
        {"low": None, "high": None}
        if spread is None or value is None
        else {"low": value - spread, "high": value + spread}
    )
    return {
        "metric": metric,
        "value": value,
        "n": n,
        "skipped": skipped,
        "backend": {**(backend or BACKEND), "stand_in": "pocket" if metric == "fid" else ""},
        "per_picture": [],
        **ends,
    }


def row(role: str, arm: str, *scores: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "role": role,
        "attack": None,
        "variant": "",
        "cell": None,
        "arm": arm,
        "seed": 0,
        "label": "",
        "images": None,
        "scores": list(scores),
        **fields,
    }


def attack_row(
    attack: str, arm: str, *scores: dict[str, Any], seed: int = 0, variant: str = "", cell: str = ""
) -> dict[str, Any]:
    words = "-".join(filter(None, (attack, variant.replace(" ", "-"), arm, f"seed{seed}")))
    cell = cell or f"{words}-{hashlib.sha256(words.encode()).hexdigest()[:12]}"
    folder = f"../_control/{cell}/images/k" if arm == "original" else f"evaluation/images/{cell}"
    return row(
        "attack", arm, *scores, attack=attack, variant=variant, seed=seed, cell=cell, images=folder
    )


def levels(metric: str = "dino") -> list[dict[str, Any]]:
    return [
        row("floor", "original", score(0.02, metric, spread=0.02), label="floor"),
        row("ceiling", "original", score(0.9, metric, spread=0.02), label="ceiling"),
    ]


def utility_rows() -> list[dict[str, Any]]:
    def fid(value: float) -> dict[str, Any]:
        return score(value, "fid", spread=1.0, n=128)

    return [
        row(
            "utility",
            "original",
            topic="class pictures",
            label="class pictures, original, reference",
            seed=0,
            images="evaluation/images/class-a",
        ),
        row(
            "utility",
            "original",
            fid(7.4),
            topic="class pictures",
            label="class pictures, original",
            seed=1,
            images="evaluation/images/class-b",
        ),
        row(
            "utility",
            "protected",
            fid(8.1),
            score(0.83, "same-seed", n=128),
            topic="class pictures",
            label="class pictures, protected",
            seed=1,
            images="evaluation/images/class-protected",
        ),
    ]


def neighbour_rows() -> list[dict[str, Any]]:
    return [
        row("neighbour", arm, score(value), attack="dreambooth", topic=name, cell=name)
        for name, values in {"person-5": (0.66, 0.6), "dog-2": (0.7, 0.69)}.items()
        for arm, value in zip(("original", "protected"), values, strict=True)
    ]


def full_rows() -> list[dict[str, Any]]:
    """Three attacks, one with a second variant; DreamBooth with three seeds."""
    rows = []
    for attack, variant, seeds, (original, protected) in (
        ("dreambooth", "", 3, (0.64, 0.12)),
        ("dreambooth", "unseen photos", 1, (0.6, 0.2)),
        ("lora", "", 1, (0.58, 0.31)),
        ("textual-inversion", "", 1, (0.35, 0.28)),
    ):
        for seed in range(seeds):
            shift = (0, 0.03, -0.02)[seed]
            for arm, value in (("original", original), ("protected", protected)):
                rows.append(
                    attack_row(
                        attack,
                        arm,
                        score(value + shift),
                        score(30 + 40 * (0.7 - value), "brisque", spread=3.0),
                        seed=seed,
                        variant=variant,
                    )
                )
    return rows + levels() + utility_rows() + neighbour_rows()


def paint(folder: str, number: int) -> Image.Image:
    """A flat picture whose colour tells folder and number apart."""
    digest = hashlib.sha256(f"{folder}/{number}".encode()).digest()
    return Image.new("RGB", (16, 16), (digest[0], digest[1], digest[2]))


def make_run(
    root: Path,
    name: str = "photos-person",
    rows: list[dict[str, Any]] | None = None,
    *,
    subject: str = "person-1",
    painter: Painter = paint,
    pictures: int = 8,
    photos: list[Path] | None = None,
    unavailable: list[dict[str, str]] | None = None,
    metrics: Sequence[MetricMeaning] = METRICS,
    protects_photos: bool = False,
) -> Path:
    """Write a whole evaluated run; returns its folder."""
    rows = full_rows() if rows is None else rows
    run = root / name
    manifest = _manifest(name, subject, photos or [])
    if protects_photos:
        manifest["perturbed"] = {"eta": 0.05, "photos": []}
    _write_json(run / "manifest.json", manifest)
    _write_log(
        run / "metrics.jsonl",
        [
            {
                "index": step,
                "objective": 0.7 / (1 + step / 40),
                "preservation": 0.02 + step * 1e-4,
                "positive_margin": 0.01 * step / 40,
                "negative_margin": 1.2 * step / 300,
                "drift": step * 1e-4,
            }
            for step in range(300)
        ],
    )
    for one in rows:
        if one["images"]:
            for number in range(pictures):
                file = run / one["images"] / f"{number:04d}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                painter(one["images"], number).save(file)
        if one["role"] == "attack":
            _write_cell(root, run, one)
    scores = {
        "schema": 2,
        "run": name,
        "model": {"source": "pocket", "revision": None, "digest": "f" * 64},
        "protected_digest": "e" * 64,
        "sampler": {"sampler": "ddim", "steps": 20, "guidance": 3.0, "seed": 0},
        "prompts": {"set": "identity", "n": 30},
        "subject": {"name": subject},
        "metrics": [meaning.model_dump() for meaning in metrics],
        "rows": rows,
        "unavailable": unavailable or [],
    }
    _write_json(run / "evaluation" / "scores.json", scores)
    return run


def _manifest(name: str, subject: str, photos: list[Path]) -> dict[str, Any]:
    return {
        "schema": 1,
        "kind": "protect",
        "status": "done",
        "name": name,
        "created": "2026-01-02T03:04:05.000000+00:00",
        "finished": "2026-01-02T03:09:05.000000+00:00",
        "duration_seconds": 300.0,
        "versions": {"python": "3.11.9", "apdm": "0.1.0", "torch": "2.14.1", "peft": None},
        "model": {"source": "pocket", "revision": None, "digest": "f" * 64},
        "subject": {
            "name": subject,
            "class_noun": "person",
            "identifier": "sks",
            "photos": {
                "sources": [str(photo) for photo in photos] or ["/home/secret/photos"],
                "files": [
                    {"name": photo.name, "sha256": hashlib.sha256(photo.read_bytes()).hexdigest()}
                    for photo in photos
                ]
                or [
                    {
                        "name": f"{i}.png",
                        "sha256": hashlib.sha256(f"{subject}/{i}".encode()).hexdigest(),
                    }
                    for i in range(4)
                ],
            },
        },
        "method": "apdm",
        "preset": "pocket",
        "terms": {"objective": "DPO loss", "negative_margin": "error added on the photos (r⁻)"},
        "configuration": {"beta": 1.0, "steps_outer": 300, "path": {"batch_size": 2}},
        "seed": 0,
        "device": "cpu",
        "dtype": "fp32",
        "summary": {},
    }


def _write_cell(root: Path, run: Path, one: dict[str, Any]) -> None:
    shared = one["arm"] == "original"
    folder = (root / "_control" if shared else run / "attacks") / str(one["cell"])
    _write_json(
        folder / "manifest.json",
        {
            "schema": 1,
            "kind": "attack",
            "status": "done",
            "attack": one["attack"],
            "variant": one["variant"],
            "configuration": {"steps": 100, "learning_rate": 2e-4},
            "arm": one["arm"],
            "seed": one["seed"],
            "control": None if shared else "the-same-on-the-original",
            "subject": {
                "name": "person-1",
                "class_noun": "person",
                "identifier": "sks",
                "photos": {"files": []},
            },
            "prompt_word": "sks",
            "transforms": [],
        },
    )
    level = 0.3 if shared else 0.5
    _write_log(
        folder / "losses.jsonl",
        [
            {"index": step, "loss": level / (1 + step / 20), "learning_rate": 2e-4}
            for step in range(100)
        ],
    )


def _write_json(file: Path, data: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(data), encoding="utf-8")


def _write_log(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def pick(lines: list[Line], role: str, label: str | None = None, metric: str = "dino") -> Line:
    found = [
        line
        for line in lines
        if line.role == role and line.metric == metric and label in (None, line.label)
    ]
    assert len(found) == 1, found
    return found[0]


def both(attack: str, original: float, protected: float, **fields: Any) -> list[dict[str, Any]]:
    return [
        attack_row(attack, "original", score(original), **fields),
        attack_row(attack, "protected", score(protected), **fields),
    ]


def value(interval: Any) -> float:
    assert interval is not None
    return float(interval.value)
