"""Which part of the protection carries it, on the pocket model, and the figure of it; resumable.

    python -m benchmarks.pocket_ablation [--identities 3] [VARIANT ...]

Writes `benchmarks/results/pocket_ablation.json` and `docs/images/pocket_ablation.svg`: the work
factor against what the class pictures lose, one point a setting and identity.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.ground import ROOT, Ground, Person, whole_settings
from benchmarks.pocket_effect import questions
from benchmarks.pocket_summary import by_variant, cell, table, write
from benchmarks.trials import RESULTS, job, run
from benchmarks.variants import ABLATIONS
from pocket_training.plan import HELD_OUT_FROM

FIGURE = Path(__file__).parents[1] / "docs" / "images" / "pocket_ablation.svg"
FIRST = HELD_OUT_FROM + 460
PEOPLE = [Person("person", FIRST + i, FIRST + 10 + i) for i in range(3)]


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing, write the files, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=", ".join(ABLATIONS))
    parser.add_argument(
        "--identities", type=int, default=len(PEOPLE), help="only the first of them"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of photos and runs")
    asked = parser.parse_args(argv)
    # Identity by identity: a stop leaves every setting on the first ones.
    jobs = [
        job(person, name, whole_settings(ABLATIONS[name]), questions(1), Ground())
        for person in PEOPLE[: asked.identities]
        for name in asked.variants or ABLATIONS
    ]
    log = RESULTS / "pocket_ablation.jsonl"
    rows = run(jobs, log, root=asked.root, workers=asked.workers)
    means = by_variant(rows)
    write(RESULTS / "pocket_ablation.json", rows, means)
    draw(rows, FIGURE)
    print(table(means))


def draw(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """One point for each setting and identity, upper left is best; an arrow where the work factor
    is only known to be at least this large."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    markers = "osD^v<>Pp*hXd"
    for number, name in enumerate(dict.fromkeys(row["job"]["variant"] for row in rows)):
        cells = [cell(row["result"]) for row in rows if row["job"]["variant"] == name]
        known = [c for c in cells if c["work_factor"] is not None]
        color = colormaps["tab20"](number % 20)
        axes.scatter(
            [c["class_distance_ratio"] for c in known],
            [c["work_factor"].value for c in known],
            label=name,
            marker=markers[number % len(markers)],
            color=color,
        )
        for c in known:
            if c["work_factor"].bound == ">":
                axes.annotate(
                    "",
                    (c["class_distance_ratio"], c["work_factor"].value * 1.12),
                    (c["class_distance_ratio"], c["work_factor"].value),
                    arrowprops={"arrowstyle": "->", "color": color},
                )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("class distance over that of two seeds of the original (1: unharmed)")
    axes.set_ylabel("work factor: steps of the attack, protected over original")
    axes.axhline(1, color="grey", linewidth=0.5)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize="small")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None})


if __name__ == "__main__":
    main()
