"""An adapter against all weights: what either protects, on the pocket model; resumable.

    python -m benchmarks.pocket_adapter [--identities 2] [--protection-seeds 2] [VARIANT ...]

Appends to `benchmarks/results/pocket_adapter.jsonl`, writes the JSON beside it (with the seconds of
every protection) and prints the table.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.ground import ROOT, Ground, Person, whole_settings
from benchmarks.pocket_effect import questions
from benchmarks.pocket_summary import by_variant, table, write
from benchmarks.trials import RESULTS, job, run
from benchmarks.variants import ADAPTERS
from pocket_training.plan import HELD_OUT_FROM

FIRST = HELD_OUT_FROM + 480  # apart from the sample photos, the search, the ablation and the card
PEOPLE = [Person("person", FIRST + 1, FIRST + 11), Person("dog", FIRST + 2, FIRST + 12)]


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing, write the file, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=", ".join(ADAPTERS))
    parser.add_argument("--identities", type=int, default=len(PEOPLE), help="only the first")
    parser.add_argument("--protection-seeds", type=int, default=2, metavar="N")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of photos and runs")
    asked = parser.parse_args(argv)
    # Seed by seed and person by person: a stop leaves every variant on the first ones.
    jobs = [
        job(person, name, whole_settings(ADAPTERS[name]), questions(1), Ground(), seed)
        for seed in range(asked.protection_seeds)
        for person in PEOPLE[: asked.identities]
        for name in asked.variants or ADAPTERS
    ]
    rows = run(jobs, RESULTS / "pocket_adapter.jsonl", root=asked.root, workers=asked.workers)
    means = by_variant(rows)
    write(RESULTS / "pocket_adapter.json", rows, means)
    print(table(means))


if __name__ == "__main__":
    main()
