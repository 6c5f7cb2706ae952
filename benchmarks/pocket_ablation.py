"""The paper's ablations on the pocket model, and the figure of them; resumable.

    python -m benchmarks.pocket_ablation [--identities 3]

Writes `benchmarks/results/pocket_ablation.json` and `docs/images/pocket_ablation.svg`: the cut of
the similarity against what the class pictures lose, one point a setting and identity.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.pocket_jobs import RESULTS, Person, run
from benchmarks.pocket_summary import cell, summary, table, write
from benchmarks.variants import ABLATIONS
from pocket_training.plan import HELD_OUT_FROM

FIGURE = Path(__file__).parents[1] / "docs" / "images" / "pocket_ablation.svg"
FIRST = HELD_OUT_FROM + 440
PEOPLE = [Person("person", FIRST + i, FIRST + 50 + i) for i in range(3)]
ATTACK_SEEDS = (0, 1, 2)


def main() -> None:
    """Run what is missing, write the files, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--identities", type=int, default=len(PEOPLE), help="only the first of them"
    )
    people = PEOPLE[: parser.parse_args().identities]
    baselines, rows = run(people, ATTACK_SEEDS, ABLATIONS, RESULTS / "pocket_ablation.jsonl")
    by_variant = {name: [r for r in rows if r["job"]["variant"] == name] for name in ABLATIONS}
    means = {name: summary(baselines, found) for name, found in by_variant.items()}
    write(RESULTS / "pocket_ablation.json", baselines, rows, means)
    draw(baselines, by_variant)
    print(table(means))


def draw(
    baselines: Mapping[int, Mapping[str, Any]],
    by_variant: Mapping[str, Sequence[Mapping[str, Any]]],
) -> None:
    """One point for each setting and identity; upper left is best."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    markers = "osD^v<>Pp*hXd"
    for number, (name, rows) in enumerate(by_variant.items()):
        cells = [cell(baselines[row["job"]["identity"]], row["result"]) for row in rows]
        axes.scatter(
            [c["class_distance_ratio"] for c in cells],
            [100 * c["cut_seen"] for c in cells],
            label=name,
            marker=markers[number % len(markers)],
            color=colormaps["tab20"](number),
        )
    axes.set_xscale("log")
    axes.set_xlabel("class distance over that of two seeds of the original (1: unharmed)")
    axes.set_ylabel("cut of the attack's similarity, %")
    axes.axhline(0, color="grey", linewidth=0.5)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.savefig(FIGURE, metadata={"Date": None})


if __name__ == "__main__":
    main()
