"""The effect of a preset on identities that nothing was chosen on; resumable.

    python -m benchmarks.pocket_effect [--preset pocket-long] [--attack-rate 2e-4]
                                       [--protection-seed 1]

Writes `benchmarks/results/pocket_effect.json` (`pocket_effect_long.json` and so on with other
options): every cell, and a `summary` of the means with their spreads.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from benchmarks.pocket_jobs import DEMO_ATTACK, RESULTS, Person, run
from benchmarks.pocket_summary import summary, table, write
from pocket_training.plan import HELD_OUT_FROM

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
    parser.add_argument("--attack-rate", type=float, default=DEMO_ATTACK.learning_rate)
    parser.add_argument("--protection-seed", type=int, default=0)
    asked = parser.parse_args()
    baselines, rows = run(
        PEOPLE,
        ATTACK_SEEDS,
        {asked.preset: {"preset": asked.preset}},
        RESULTS / "pocket_effect.jsonl",
        replace(DEMO_ATTACK, learning_rate=asked.attack_rate),
        asked.protection_seed,
    )
    means = summary(baselines, rows)
    write(RESULTS / f"pocket_effect{suffix(asked)}.json", baselines, rows, means)
    print(table({asked.preset: means}))


def suffix(asked: argparse.Namespace) -> str:
    """What of `asked` is not the default, for a file name."""
    words = asked.preset.split("-")[1:]
    if asked.attack_rate != DEMO_ATTACK.learning_rate:
        words.append(f"rate_{asked.attack_rate:g}")
    if asked.protection_seed:
        words.append(f"protection_seed_{asked.protection_seed}")
    return "".join(f"_{word}" for word in words)


if __name__ == "__main__":
    main()
