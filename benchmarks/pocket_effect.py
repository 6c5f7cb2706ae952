"""The effect of a preset on identities that nothing was chosen on; resumable.

    python -m benchmarks.pocket_effect [--preset pocket-long] [--set KEY=VALUE]
                                       [--protection-seeds 2] [--workers 2]
    python -m benchmarks.pocket_effect --summary      # of what is there, nothing is run

Appends to `benchmarks/results/pocket_effect.jsonl` (`pocket_effect_long.jsonl` and so on for other
presets) and writes the JSON beside it: every cell, and a `summary` of the means with their spreads.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apdm_cli.pocket.profile import POCKET
from apdm_cli.runs.jsonl import read_rows
from benchmarks.ground import ROOT, Ground, Person, Question
from benchmarks.pocket_summary import summary, table, table_of_others, write
from benchmarks.trials import RESULTS, add_settings, asked_settings, job, newest, of_settings, run
from pocket_training.plan import HELD_OUT_FROM, SUBJECTS

FIRST = HELD_OUT_FROM + 440  # apart from the sample photos, the search, the ablation and the card
# Without person 440 and dog 450, on whom a weight was looked at.
# Three others each, because how much one loses depends on how like the protected one they are.
FURTHER = (100, 200)


def somebody(noun: str, seed: int, other: int = 50) -> Person:
    """An identity with three others, `other` and so on further on."""
    first = seed + other
    return Person(noun, seed, first, tuple(first + more for more in FURTHER))


PEOPLE = [
    somebody("person", FIRST + 1),
    somebody("dog", FIRST + 12),
    somebody("person", FIRST + 3),
    somebody("cat", FIRST + 10, 60),
    somebody("person", FIRST + 4),
    somebody("person", FIRST + 5),
]
SEEDS = 3
# A fifth of the steps, because the original learns some identities before half of them.
CURVE = (0.2, 0.5, 1.0, 2.0, 3.0)


def questions(seeds: int) -> list[Question]:
    """The attacks of the table, with this many attack seeds."""
    first, *more = every = tuple(range(seeds))
    twice = {"learning_rate": 2 * POCKET.attack["learning_rate"]}
    return [
        Question("seen", (first,), (*CURVE, 6.0)),
        *([Question("seen", tuple(more), CURVE)] if more else []),
        Question("unseen", every, photos="unseen"),
        Question("rate2", every, settings=twice),
        Question("other", (first,), CURVE, photos="other"),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing, write the file, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_settings(parser)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="of every attack")
    parser.add_argument("--protection-seeds", type=int, default=1, metavar="N")
    parser.add_argument(
        "--identities", nargs="+", metavar="NAME", help="; ".join(who.name for who in PEOPLE)
    )
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of photos and runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument(
        "--summary",
        action="store_true",
        help="run nothing; where the log has none with these settings, of those that it has last",
    )
    asked = parser.parse_args(argv)
    name = f"pocket_effect{suffix(asked.preset)}"
    log = asked.results / f"{name}.jsonl"
    settings = asked_settings(asked)
    if asked.summary:
        rows = newest(of_settings(read_rows(log), settings))
    else:
        people = chosen(asked.identities)
        jobs = all_jobs(asked.preset, settings, asked.seeds, asked.protection_seeds, people)
        rows = run(jobs, log, root=asked.root, workers=asked.workers)
    means = summary(rows)
    if not asked.over:
        write(asked.results / f"{name}.json", rows, means)
    groups = {"all": means, "persons": means["persons"], "animals": means["animals"]}
    groups |= {f"protection seed {s}": one for s, one in means["by_protection_seed"].items()}
    print(table({label: found for label, found in groups.items() if found}))
    print(table_of_others(rows))


def all_jobs(
    name: str, settings: Mapping[str, Any], seeds: int, protection_seeds: int,
    people: Sequence[Person] = PEOPLE,
) -> list[dict[str, Any]]:  # fmt: skip
    """Seed by seed: a stop leaves every identity with the first."""
    return [
        job(person, name, settings, questions(seeds), Ground(), seed)
        for seed in range(protection_seeds)
        for person in people
    ]


def chosen(names: Sequence[str] | None) -> list[Person]:
    """The people with these names, everybody without names.

    Others than those of the table are written the same way: `dog-1000452`. They are for when a
    setting was changed after its effect on somebody had been seen, who then is held out no more.

    Raises:
        SystemExit: no such class, or an identity that training may have seen.
    """
    known = {person.name: person for person in PEOPLE}
    return [known.get(name) or _held_out(name) for name in names or known]


def _held_out(name: str) -> Person:
    noun, _, number = name.rpartition("-")
    if noun not in SUBJECTS or not number.isdecimal() or int(number) < HELD_OUT_FROM:
        raise SystemExit(
            f"{name}: expected a class ({', '.join(SUBJECTS)}) and a number from {HELD_OUT_FROM}, "
            f"as in {PEOPLE[0].name}"
        )
    return somebody(noun, int(number))


def suffix(preset: str) -> str:
    """What a preset adds to the names of the files: nothing for `pocket`, `_long`, `_plain`."""
    return "".join(f"_{word}" for word in preset.split("-")[1:])


if __name__ == "__main__":
    main()
