"""Settings for the pocket preset: each tried on identities that are used for choosing only.

    python -m benchmarks.pocket_search [VARIANT ...]

Appends to `benchmarks/results/pocket_search.jsonl`; docs/pocket-search.md tells what was learnt.
"""

from __future__ import annotations

import argparse

from benchmarks.pocket_jobs import RESULTS, Person, run
from benchmarks.pocket_summary import summary, table
from benchmarks.variants import VARIANTS

LOG = RESULTS / "pocket_search.jsonl"
# For choosing; the effect table reports on others.
CHOOSING = [Person("person", seed, 1_000_390) for seed in (1_000_300, 1_000_301)]
ATTACK_SEEDS = (0,)


def main() -> None:
    """Run the named variants (all without names) and print their table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=", ".join(VARIANTS))
    options = parser.parse_args()
    chosen = {name: VARIANTS[name] for name in options.variants or VARIANTS}
    baselines, rows = run(CHOOSING, ATTACK_SEEDS, chosen, LOG)
    print(table({
        name: summary(baselines, [row for row in rows if row["job"]["variant"] == name])
        for name in chosen
    }))  # fmt: skip


if __name__ == "__main__":
    main()
