"""From the numbers of a protection and of the undefended model to cuts, ratios and means."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.pocket_lab import cut

ATTACKS = ("seen", "unseen", "long")
CUTS = tuple(f"cut_{name}" for name in ATTACKS)
MEASURES = (
    *CUTS,
    "class_distance_ratio",
    "class_same_seed",
    "other_identities_kept",
    "protect_seconds",
)


def cell(baseline: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, float]:
    """What one protected identity shows, means over attack seeds first.

    *cut* = (undefended - protected) / (undefended - floor); *kept* = the other identity's gain
    over its floor on the protected model, over the same on the original.
    """
    mean = statistics.mean
    cuts = {
        f"cut_{name}": cut(mean(baseline[name]), mean(result[name]), baseline["floor"])
        for name in ATTACKS
    }
    floor = baseline["other_floor"]
    return {
        **cuts,
        "class_distance_ratio": result["class_distance"] / result["class_distance_original"],
        "class_same_seed": result["class_same_seed"],
        "other_identities_kept": 1 - cut(mean(baseline["other"]), mean(result["other"]), floor),
        "protect_seconds": result["protect_seconds"],
    }


def seed_spread(baseline: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, float]:
    """Standard deviation of each cut over the attack seeds, seed against the same seed."""
    floor = baseline["floor"]
    return {
        f"cut_{name}": statistics.pstdev([
            cut(before, after, floor)
            for before, after in zip(baseline[name], result[name], strict=True)
        ])
        for name in ATTACKS
    }  # fmt: skip


def summary(
    baselines: Mapping[int, Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Means of `cell` over identities, their spread over identities and over attack seeds.

    Args:
        baselines: results of the undefended model by identity seed.
        rows: {"job", "result"} of protected identities, one setting.
    """
    pairs = [(baselines[row["job"]["identity"]], row["result"]) for row in rows]
    cells = [cell(*pair) for pair in pairs]
    spreads = [seed_spread(*pair) for pair in pairs]
    undefended = {n: statistics.mean(v for b, _ in pairs for v in b[n]) for n in ATTACKS}
    reached = {n: statistics.mean(v for _, r in pairs for v in r[n]) for n in ATTACKS}
    return {
        **{name: statistics.mean(c[name] for c in cells) for name in MEASURES},
        "spread_over_identities": {
            name: statistics.pstdev([c[name] for c in cells]) for name in MEASURES
        },
        "spread_over_seeds": {name: statistics.mean(s[name] for s in spreads) for name in CUTS},
        "undefended": undefended,
        "protected": reached,
        "floor": statistics.mean(b["floor"] for b, _ in pairs),
        "identities": len(rows),
        "seeds": len(rows[0]["job"]["seeds"]),
    }


def write(
    path: Path,
    baselines: Mapping[int, Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    means: Mapping[str, Any],
) -> None:
    """Every cell, what the undefended model gave, the machine, and the `summary`."""
    cells = [
        {**row, "means": cell(baselines[row["job"]["identity"]], row["result"])} for row in rows
    ]
    document = {
        "machine": f"{platform.machine()}, one thread each, torch {torch.__version__}",
        "summary": means,
        "undefended": {str(seed): result for seed, result in baselines.items()},
        "cells": cells,
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def table(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """One Markdown line for each setting: means ± spread over identities, and their number."""
    head = (
        "| setting | cut, seen photos | unseen photos | three times as long | "
        "class distance ratio | same seed | other identities kept | seconds | identities |"
    )
    lines = [head, "|---|" + "---|" * (len(MEASURES) + 1)]
    for name, values in summaries.items():
        spread = values["spread_over_identities"]
        texts = [_text(measure, values[measure], spread[measure]) for measure in MEASURES]
        lines.append(f"| {name} | " + " | ".join([*texts, str(values["identities"])]) + " |")
    return "\n".join(lines)


def _text(measure: str, mean: float, spread: float) -> str:
    if measure == "protect_seconds":
        return f"{mean:.0f} ± {spread:.0f}"
    if measure.startswith(("cut", "other")):
        return f"{mean:.0%} ± {spread:.0%}"
    return f"{mean:.2f} ± {spread:.2f}"
