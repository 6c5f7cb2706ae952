"""Every attack against the original and a protected pocket model: which one wins?

    python -m benchmarks.attack_table [--suite full] [--seeds 2] [--workers 2]

Three held-out identities, resumable. Writes `benchmarks/results/attack_table.json` (for another
suite or preset `attack_table_wild.json`, `attack_table_wild_lora.json` and so on) and prints the
table as Markdown.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apdm_cli.pocket.profile import POCKET
from apdm_cli.runs.jsonable import jsonable
from benchmarks.ground import ROOT, Ground, Person, Question
from benchmarks.pocket_effect import suffix
from benchmarks.pocket_summary import cut, factors, similarities
from benchmarks.trials import RESULTS, add_settings, asked_settings, job, run
from benchmarks.work_factor import Bounded, geometric_mean
from pocket_training.plan import HELD_OUT_FROM

# Two of the packaged persons and a packaged dog, on whom nothing was chosen.
PEOPLE = [
    Person("person", HELD_OUT_FROM + 2, HELD_OUT_FROM + 3),
    Person("person", HELD_OUT_FROM + 3, HELD_OUT_FROM + 2),
    Person("dog", HELD_OUT_FROM, HELD_OUT_FROM + 1),
]
FULL = "full"
LOOKED_AT = (0.25, 1.0, 3.0)  # multiples of an attack's steps that have columns
BUDGETS = (0.5, 1.0, 2.0, 3.0, 6.0)


def questions(suite: str, seeds: int) -> list[Question]:
    """The suite, and beside `full` what no suite can say: sizes depend on the model, and few
    attackers have the original's weights or the very photos."""
    every = tuple(range(seeds))
    if suite != FULL:
        return [Question("suite", every, suite=suite)]
    twice = {"learning_rate": 2 * POCKET.attack["learning_rate"]}
    return [
        Question("suite", every, suite=suite),
        Question("dreambooth (twice the rate)", every, BUDGETS, settings=twice),
        Question("dreambooth (unseen photos)", every, BUDGETS, photos="unseen"),
        Question(
            "adaptive-objective (interpolate)",
            every,
            attack="adaptive-objective",
            settings={"variant": "interpolate"},
        ),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suite", default=FULL, help="quick, wild, full ... or a TOML file")
    add_settings(parser)
    parser.add_argument("--seeds", type=int, default=2, help="of every attack")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of photos and runs")
    asked = parser.parse_args(argv)
    settings = asked_settings(asked)
    tried = questions(asked.suite, asked.seeds)
    jobs = [job(person, asked.preset, settings, tried, Ground()) for person in PEOPLE]
    of_suite = "" if asked.suite == FULL else f"_{Path(asked.suite).stem}"
    name = f"attack_table{of_suite}{suffix(asked.preset)}"
    log = RESULTS / f"{name}.jsonl"
    rows = run(jobs, log, root=asked.root, workers=asked.workers)
    found = collect([row["result"] for row in rows])
    if not asked.over:
        document = {"identities": [person.name for person in PEOPLE], "rows": found}
        text = json.dumps(jsonable(document), indent=1) + "\n"
        (RESULTS / f"{name}.json").write_text(text, encoding="utf-8")
    print(table(found))


def collect(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row an attack: similarities at each of `LOOKED_AT`, cuts, and its work factor.

    Means over identities and seeds, of work factors geometric ones; the weakest protection first.
    """
    names = dict.fromkeys(r["question"] for result in results for r in result["rows"])
    found = [_row(name, results) for name in names if name]
    return sorted(found, key=lambda row: (row["work_factor"] or 0.0, -row["protected_1"]))


def _row(name: str, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {"attack": name}
    for budget in LOOKED_AT:
        both: dict[str, list[float]] = {"original": [], "protected": [], "floor": []}
        for result in results:
            arms = {arm: similarities(result, name, arm, budget) for arm in both if arm != "floor"}
            for seed in arms["original"].keys() & arms["protected"].keys():
                for arm, found in arms.items():
                    both[arm].append(found[seed])
                both["floor"].append(result["floor"])
        row[f"n_{budget:g}"] = len(both["floor"])
        means = {arm: statistics.mean(v) if v else None for arm, v in both.items()}
        for arm in ("original", "protected"):
            row[f"{arm}_{budget:g}"] = means[arm]
            row[f"{arm}_{budget:g}_spread"] = statistics.pstdev(both[arm]) if both[arm] else None
        row[f"cut_{budget:g}"] = (
            cut(means["original"], means["protected"], means["floor"])
            if means["original"] is not None
            and means["protected"] is not None
            and means["floor"] is not None
            else None
        )
    every = [f for r in results for f in factors(r, name, r["floor"], r["ceiling"])]
    mean = geometric_mean(every) if every else None
    row["work_factor"] = mean.value if mean else None
    row["bound"] = mean.bound if mean else None
    row["censored"] = sum(factor.censored for factor in every)
    row["factors"] = len(every)
    return row


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as Markdown, with the columns of which there is anything."""
    looked_at = [f"{budget:g}" for budget in LOOKED_AT]
    looked_at = [budget for budget in looked_at if any(row[f"n_{budget}"] for row in rows)]
    titles = [
        what if budget == "1" else f"{what}, {budget} ×"
        for budget in looked_at
        for what in ("original", "protected", "cut")
    ]
    lines = [f"| attack | {' | '.join(titles)} | work factor | n |"]
    lines.append("|---|" + "---|" * (len(titles) + 2))
    for row in rows:
        texts = []
        for budget in looked_at:
            for arm in ("original", "protected"):
                mean, spread = row[f"{arm}_{budget}"], row[f"{arm}_{budget}_spread"]
                texts.append("–" if mean is None else f"{mean:.2f} ± {spread:.2f}")
            cuts = row[f"cut_{budget}"]
            texts.append("–" if cuts is None else f"{cuts:.0%}")
        factor = row["work_factor"]
        texts.append("–" if factor is None else Bounded(factor, row["bound"]).text)
        lines.append(f"| {row['attack']} | {' | '.join(texts)} | {row['n_1']} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
