"""Settings for the pocket preset: each tried on identities that are used for choosing only.

    python -m benchmarks.pocket_search [VARIANT ...]

Appends to `benchmarks/results/pocket_search.jsonl`; `benchmarks/notes/search.md` tells what was
learnt.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.ground import ROOT, Ground, Person, whole_settings
from benchmarks.pocket_effect import questions
from benchmarks.pocket_summary import by_variant, table
from benchmarks.trials import RESULTS, job, run
from benchmarks.variants import VARIANTS

# For choosing; the effect table reports on others.
CHOOSING = [
    Person("person", 1_000_301, 1_000_391),
    Person("person", 1_000_300, 1_000_390),
    Person("dog", 1_000_451, 1_000_392),
]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the named variants (all without names) and print their table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=", ".join(VARIANTS))
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of photos and runs")
    asked = parser.parse_args(argv)
    chosen = {name: VARIANTS[name] for name in asked.variants or VARIANTS}
    jobs = [
        job(person, name, whole_settings(settings), questions(1), Ground())
        for name, settings in chosen.items()
        for person in CHOOSING
    ]
    log = RESULTS / "pocket_search.jsonl"
    print(table(by_variant(run(jobs, log, root=asked.root, workers=asked.workers))))


if __name__ == "__main__":
    main()
