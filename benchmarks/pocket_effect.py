"""The effect of a preset on identities that nothing was chosen on; resumable.

    python -m benchmarks.pocket_effect [--preset pocket-long]

Writes `benchmarks/results/pocket_effect.json` (`pocket_effect_long.json` and so on for other
presets): every cell, and a `summary` of the means with their spreads.
"""

from __future__ import annotations

import argparse

from apdm_cli.pocket.training.plan import HELD_OUT_FROM
from benchmarks.pocket_jobs import RESULTS, Person, run
from benchmarks.pocket_summary import summary, table, write

FIRST = HELD_OUT_FROM + 400  # apart from the sample photos, the search and the card
PEOPLE = [
    *(Person("person", FIRST + i, FIRST + 50 + i) for i in range(4)),
    Person("dog", FIRST + 10, FIRST + 60),
    Person("cat", FIRST + 20, FIRST + 70),
]
ATTACK_SEEDS = (0, 1, 2)


def main() -> None:
    """Run what is missing, write the file, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", choices=("pocket", "pocket-long"), default="pocket")
    preset = parser.parse_args().preset
    out = RESULTS / f"pocket_effect{preset.removeprefix('pocket').replace('-', '_')}.json"
    log = RESULTS / "pocket_effect.jsonl"
    baselines, rows = run(PEOPLE, ATTACK_SEEDS, {preset: {"preset": preset}}, log)
    means = summary(baselines, rows)
    write(out, baselines, rows, means)
    print(table({preset: means}))


if __name__ == "__main__":
    main()
