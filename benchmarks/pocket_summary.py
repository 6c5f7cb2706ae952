"""From the rows of scores of protected identities to cuts, work factors, ratios and means.

Everything is computed from what the log of a benchmark keeps, so that a summary can be made again
without running anything.
"""

from __future__ import annotations

import json
import math
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from apdm_cli.runs.jsonable import jsonable
from benchmarks.ground import DISTANCE, SAME_SEED, SIMILARITY
from benchmarks.work_factor import Bounded, geometric_mean, work_factor

CUTS = ("cut_seen", "cut_unseen", "cut_long", "cut_rate2")
# The question, and the budget at which it is read.
READ = {
    "cut_seen": ("seen", 1.0),
    "cut_unseen": ("unseen", 1.0),
    "cut_long": ("seen", 3.0),
    "cut_rate2": ("rate2", 1.0),
}
FACTORS = ("work_factor", "other_work_factor")
WORST = "work_factor_worst_identity"
MEASURES = (
    *CUTS,
    "work_factor",
    "class_distance_ratio",
    "class_same_seed",
    "other_identities_kept",
    "other_work_factor",
    "protect_seconds",
)
Result = Mapping[str, Any]
Cell = dict[str, Any]  # name of a measure → a float, a Bounded, or None


def cut(undefended: float, protected: float, floor: float) -> float:
    """(undefended − protected) / (undefended − floor): 1 when nothing of the subject is left."""
    return (undefended - protected) / (undefended - floor)


def similarities(result: Result, question: str, arm: str, budget: float = 1.0) -> dict[int, float]:
    """Attack seed → similarity at `budget` times the steps, for one question and model."""
    return {
        row["seed"]: _score(row, SIMILARITY)
        for row in result["rows"]
        if (row["question"], row["arm"], row["budget"]) == (question, arm, budget)
    }


def curves(result: Result, question: str, arm: str) -> dict[int, list[tuple[float, float]]]:
    """Attack seed → (steps, similarity) at every budget, ascending."""
    found: dict[int, list[tuple[float, float]]] = {}
    for row in result["rows"]:
        if (row["question"], row["arm"]) == (question, arm):
            found.setdefault(row["seed"], []).append((row["steps"], _score(row, SIMILARITY)))
    return {seed: sorted(points) for seed, points in found.items()}


def factors(result: Result, question: str, floor: float, ceiling: float) -> list[Bounded]:
    """The work factor to half-way likeness of every attack seed that has one."""
    original, protected = (curves(result, question, arm) for arm in ("original", "protected"))
    likeness = (floor + ceiling) / 2
    found = (work_factor(original[s], protected[s], likeness) for s in original if s in protected)
    return [factor for factor in found if factor is not None]


def others(result: Result) -> dict[str, Cell]:
    """Of everybody else who was taught: name → likeness, kept, work_factor.

    *likeness*: similarity of their photos to the protected person's, before any training. *kept*:
    their gain over their floor on the protected model, over the same on the original.
    """
    found = {}
    for name, bounds in _bounds_of_others(result).items():
        own = {"rows": _rows_of(result, name)}
        lost = _cut(own, "other", 1.0, bounds["floor"])
        every = factors(own, "other", bounds["floor"], bounds["ceiling"])
        found[name] = {
            "likeness": bounds.get("likeness"),
            "kept": None if lost is None else 1 - lost,
            "work_factor": geometric_mean(every) if every else None,
        }
    return found


def _rows_of(result: Result, other: str) -> list[Mapping[str, Any]]:
    """The rows of one of the others; all of them where results are older and know no names."""
    rows = [row for row in result["rows"] if row["question"] == "other"]
    return [row for row in rows if row["topic"] == other] if other else rows


def _bounds_of_others(result: Result) -> Mapping[str, Mapping[str, float]]:
    """By name; older results know one, without it."""
    old = {key: result.get(f"other_{key}") for key in ("floor", "ceiling")}
    return result.get("others") or {"": old}


def cell(result: Result) -> Cell:
    """What one protection of one identity shows; a measure that was not asked for is None.

    *cut* = (original − protected) / (original − floor), of means over attack seeds; of others, the
    mean; a work factor is the geometric mean over attack seeds and over others.
    """
    found: Cell = dict.fromkeys(MEASURES)
    for name, (question, budget) in READ.items():
        found[name] = _cut(result, question, budget, result["floor"])
    everybody = others(result).values()
    found["other_identities_kept"] = _mean([one["kept"] for one in everybody])
    found["other_work_factor"] = _mean([one["work_factor"] for one in everybody])
    every = factors(result, "seen", result["floor"], result["ceiling"])
    found["work_factor"] = geometric_mean(every) if every else None
    distances = {arm: _class(result, arm, DISTANCE) for arm in ("original", "protected")}
    found["class_distance_ratio"] = distances["protected"] / distances["original"]
    found["class_same_seed"] = _class(result, "protected", SAME_SEED)
    found["protect_seconds"] = result["protect_seconds"]
    return found


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over identities, of means over their protection seeds.

    Persons and animals, and every protection seed, apart too: what one seed draws is the same for
    all identities, so that its luck does not average out over them.

    Beside every mean stands its standard deviation over identities. A work factor is a geometric
    mean; where factors of single attacks are censored, it is the bound that they give, and
    `censored` says how many are and on which side the truth lies.

    Args:
        rows: {"job", "result"} of protected identities, one setting.
    """
    persons = [row for row in rows if row["job"]["class"] == "person"]
    animals = [row for row in rows if row["job"]["class"] != "person"]
    by_seed: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_seed.setdefault(row["job"]["protection_seed"], []).append(row)
    return {
        **_summary(rows),
        "persons": _summary(persons) if persons else None,
        "animals": _summary(animals) if animals else None,
        "by_protection_seed": {str(seed): _summary(own) for seed, own in by_seed.items()},
    }


def by_variant(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """`summary` of every setting in `rows`, by its name."""
    names = dict.fromkeys(row["job"]["variant"] for row in rows)
    return {name: summary([row for row in rows if row["job"]["variant"] == name]) for name in names}


def _summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    by_identity: dict[tuple[str, int], list[Cell]] = {}
    for row in rows:
        by_identity.setdefault(_who(row), []).append(cell(row["result"]))
    found: dict[str, Any] = {}
    spread: dict[str, float | None] = {}
    censored: dict[str, dict[str, Any]] = {}
    for name in MEASURES:
        each = [_mean([one[name] for one in cells]) for cells in by_identity.values()]
        measured = [value for value in each if value is not None]
        found[name], spread[name] = _number(_mean(measured)), _spread(measured)
        if name in FACTORS:
            if name == "work_factor":
                worst = min(measured, key=lambda value: value.value, default=None)
                found[WORST] = _number(worst)
                spread[WORST] = None
                censored[WORST] = {"bound": worst.bound if worst else None}
            censored[name] = _censoring(rows, name, _mean(measured))
    seeds = {seed for row in rows for seed in similarities(row["result"], "seen", "protected")}
    return {
        **found,
        "others": len({(_who(row), name) for row in rows for name in others(row["result"])}),
        "identities": len(by_identity),
        "seeds": len(seeds),
        "protection_seeds": len({row["job"]["protection_seed"] for row in rows}),
        "spread_over_identities": spread,
        "spread_over_seeds": {name: _over_seeds(rows, name) for name in CUTS},
        "censored": censored,
        "original": _levels(rows, "original"),
        "protected": _levels(rows, "protected"),
        "floor": statistics.mean(row["result"]["floor"] for row in rows),
    }


def _who(row: Mapping[str, Any]) -> tuple[str, int]:
    return row["job"]["class"], row["job"]["identity"]


def _censoring(
    rows: Sequence[Mapping[str, Any]], name: str, mean: Bounded | None
) -> dict[str, Any]:
    every: list[Bounded] = []
    curves_there = 0
    for row in rows:
        for part, question, bounds in _trainings(row["result"], name):
            curves_there += len(curves(part, question, "protected"))
            every += factors(part, question, bounds["floor"], bounds["ceiling"])
    return {
        "attacks": curves_there,
        "measured": sum(not factor.censored for factor in every),
        "censored": sum(factor.censored for factor in every),
        "not_counted": curves_there - len(every),
        "bound": mean.bound if mean else None,
    }


def _trainings(result: Result, name: str) -> list[tuple[Result, str, Mapping[str, float]]]:
    """Rows, question and bounds of everybody whose curves a work factor is read from."""
    if name == "work_factor":
        return [(result, "seen", result)]
    return [
        ({"rows": _rows_of(result, other)}, "other", bounds)
        for other, bounds in _bounds_of_others(result).items()
    ]


def _cut(result: Result, question: str, budget: float, floor: float) -> float | None:
    before, after = (
        similarities(result, question, arm, budget) for arm in ("original", "protected")
    )
    if not before or not after:
        return None
    return cut(statistics.mean(before.values()), statistics.mean(after.values()), floor)


def _over_seeds(rows: Iterable[Mapping[str, Any]], name: str) -> float | None:
    """Standard deviation of a cut over attack seeds, seed against the same seed; the mean of it."""
    question, budget = READ[name]
    found = []
    for row in rows:
        result = row["result"]
        before, after = (
            similarities(result, question, arm, budget) for arm in ("original", "protected")
        )
        cuts = [cut(before[s], after[s], result["floor"]) for s in before if s in after]
        if cuts:
            found.append(statistics.pstdev(cuts))
    return statistics.mean(found) if found else None


def _levels(rows: Sequence[Mapping[str, Any]], arm: str) -> dict[str, float]:
    """Mean similarity by question and budget: `seen at 3`."""
    values: dict[str, list[float]] = {}
    for row in rows:
        for one in row["result"]["rows"]:
            if one["question"] and one["arm"] == arm:
                label = f"{one['question']} at {one['budget']:g}"
                values.setdefault(label, []).append(_score(one, SIMILARITY))
    return {label: statistics.mean(found) for label, found in values.items()}


def _class(result: Result, arm: str, metric: str) -> float:
    return next(
        _score(row, metric)
        for row in result["rows"]
        if row["role"] == "utility"
        and row["arm"] == arm
        and row["topic"] == "class pictures"
        and any(score["metric"] == metric for score in row["scores"])
    )


def _score(row: Mapping[str, Any], metric: str) -> float:
    value = next(score["value"] for score in row["scores"] if score["metric"] == metric)
    return math.nan if value is None else float(value)


def _mean(values: Sequence[Any]) -> Any:
    """Arithmetic, of factors geometric; None of nothing."""
    there = [value for value in values if value is not None]
    if not there:
        return None
    if isinstance(there[0], Bounded):
        return geometric_mean(there)
    return statistics.mean(there)


def _spread(values: Sequence[Any]) -> float | None:
    numbers = [_number(value) for value in values]
    return statistics.pstdev(numbers) if numbers else None


def _number(value: Any) -> Any:
    return value.value if isinstance(value, Bounded) else value


def write(path: Path, rows: Sequence[Mapping[str, Any]], means: Mapping[str, Any]) -> None:
    """Every cell with its rows of scores, the machine, and the `summary`."""
    cells = [
        {
            **row,
            "means": {
                **_shown(cell(row["result"])),
                "others": {who: _shown(one) for who, one in others(row["result"]).items()},
            },
        }
        for row in rows
    ]
    document = {
        "machine": f"{platform.machine()}, one thread each, torch {torch.__version__}",
        "summary": means,
        "cells": [_brief(one) for one in cells],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(jsonable(document), indent=1) + "\n", encoding="utf-8")


def _brief(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the log without single pictures: those stay in the log."""
    result = dict(row["result"])
    result["rows"] = [
        {
            **one,
            "scores": [
                {key: value for key, value in score.items() if key != "per_picture"}
                for score in one["scores"]
            ],
        }
        for one in result["rows"]
    ]
    return {**row, "result": result}


def _shown(found: Cell) -> dict[str, Any]:
    return {
        name: {"value": value.value, "bound": value.bound} if isinstance(value, Bounded) else value
        for name, value in found.items()
    }


COLUMNS = {
    "cut_seen": "cut, seen photos",
    "cut_unseen": "unseen photos",
    "cut_long": "three times as long",
    "cut_rate2": "twice the rate",
    "work_factor": "work factor",
    WORST: "worst identity",
    "class_distance_ratio": "class distance ratio",
    "class_same_seed": "same seed",
    "other_identities_kept": "other identities kept",
    "other_work_factor": "their work factor",
    "protect_seconds": "seconds",
}


def table(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """One Markdown line for each setting: means ± spread over identities, and their number."""
    lines = [f"| setting | {' | '.join(COLUMNS.values())} | identities |"]
    lines.append("|---|" + "---|" * (len(COLUMNS) + 1))
    for name, values in summaries.items():
        texts = [text_of(measure, values) for measure in COLUMNS]
        lines.append(f"| {name} | {' | '.join(texts)} | {values['identities']} |")
    return "\n".join(lines)


def table_of_others(rows: Sequence[Mapping[str, Any]]) -> str:
    """One Markdown line for each protected identity and other; means over protection seeds.

    By falling likeness: whoever looks like the protected person comes first.
    """
    found: dict[tuple[str, str], list[Cell]] = {}
    for row in rows:
        noun, identity = _who(row)
        for name, one in others(row["result"]).items():
            found.setdefault((f"{noun}-{identity}", name), []).append(one)
    means = {
        names: {key: _mean([cell[key] for cell in cells]) for key in cells[0]}
        for names, cells in found.items()
    }
    lines = ["| protected | taught | likeness | kept | work factor |", "|---|---|---|---|---|"]
    for (protected, name), one in sorted(
        means.items(), key=lambda item: -(item[1]["likeness"] or 0)
    ):
        like = "–" if one["likeness"] is None else f"{one['likeness']:.2f}"
        kept = "–" if one["kept"] is None else f"{one['kept']:.0%}"
        factor = one["work_factor"].text if one["work_factor"] else "–"
        lines.append(f"| {protected} | {name or 'one other'} | {like} | {kept} | {factor} |")
    return "\n".join(lines)


def text_of(measure: str, values: Mapping[str, Any]) -> str:
    """A measure of a `summary` with its spread over identities, as a table shows it."""
    mean, spread = values[measure], values["spread_over_identities"][measure]
    if mean is None:
        return "–"
    if measure in (*FACTORS, WORST):
        text = Bounded(mean, values["censored"][measure]["bound"] or "").text
        return text if spread is None else f"{text} ± {spread:.1f}"
    if measure == "protect_seconds":
        return f"{mean:.0f} ± {spread:.0f}"
    if measure.startswith("cut") or measure == "other_identities_kept":
        return f"{mean:.0%} ± {spread:.0%}"
    return f"{mean:.2f} ± {spread:.2f}"
