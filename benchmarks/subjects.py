"""Several subjects protected at once against each of them alone, on the pocket model; resumable.

    python -m benchmarks.subjects [--counts 1 2] [--ways same each added kept]
                                  [--protection-seeds 1]
    python -m benchmarks.subjects --summary      # of all that is there, nothing is run

`same` gives all subjects together the steps of the preset, `each` as many times more as there are
subjects. `added` protects the first alone, and then adds one after the other to the protected model
(`apdm protect --onto`): what the last model shows of the first ones says what was forgotten, and
its seconds are of the last addition. `kept` is the same, but every run keeps where its simulated
attackers were, and what is added later holds on to that (`preservation.displaced`). Appends to
`benchmarks/results/subjects.jsonl`, writes the JSON beside it (a cell for every subject) and prints
two tables: means over subjects, and every subject by itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apdm_cli.config import merge
from apdm_cli.pocket.profile import POCKET
from apdm_cli.protection.onto import require_displacements
from apdm_cli.runs.jsonl import read_rows
from benchmarks.ground import ROOT, Ground, Person, Question, digest, weights
from benchmarks.jobs import Job, run_jobs
from benchmarks.pocket_effect import CURVE
from benchmarks.pocket_summary import FACTORS, by_variant, cell, table, write
from benchmarks.trials import (
    RESULTS,
    InFolder,
    add_settings,
    answers_of,
    asked_settings,
    of_settings,
    table_of,
)
from pocket_training.plan import HELD_OUT_FROM

FIRST = HELD_OUT_FROM + 640  # apart from everything that other benchmarks look at
CLASSES = ("person", "dog", "person", "cat", "person", "person", "dog", "person", "cat", "person")
PEOPLE = [Person(noun, FIRST + i, FIRST + 50 + i) for i, noun in enumerate(CLASSES)]
WAYS = ("same", "each", "added", "kept")
NAMES = {
    "same": "together, same steps",
    "each": "together, steps for each",
    "added": "one after the other",
    "kept": "one after the other, displacements kept",
}
# The rank of the preset's simulated LoRA, so that nothing is lost; half of its weight of
# preservation, since the term comes on top of that one.
KEPT = {"rank": 16, "weight": 7.0}
QUESTIONS = [
    Question("seen", (0,), (*CURVE, 6.0)),
    Question("other", (0,), CURVE, photos="other"),
]


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing, write the file, print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    counts = range(1, len(PEOPLE) + 1)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2], choices=counts)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    add_settings(parser)
    parser.add_argument("--protection-seeds", type=int, default=1, metavar="N")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of photos and runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--summary", action="store_true", help="run nothing: of what is there")
    asked = parser.parse_args(argv)
    log = asked.results / "subjects.jsonl"
    settings = asked_settings(asked)
    if asked.summary:
        found = of_settings(read_rows(log), settings, but=["steps_outer"])
    else:
        jobs = all_jobs(asked.counts, asked.ways, settings, asked.protection_seeds)
        found = run_jobs(jobs, InFolder(work, asked.root), log, asked.workers)
    rows = of_each(found)
    means = by_variant(rows)
    if not asked.over:
        write(asked.results / "subjects.json", rows, means)
    print(table(means))
    print(table_of_subjects(rows))


def all_jobs(
    counts: Sequence[int], ways: Sequence[str], settings: Mapping[str, Any], seeds: int
) -> list[dict[str, Any]]:
    """For every count one protection of the first so many; for 1, of each of the largest group."""
    jobs = []
    for seed in range(seeds):
        for count in sorted(set(counts)):
            if count == 1:
                alone = PEOPLE[: max(counts)]
                jobs += [
                    job([person], "alone", settings, QUESTIONS, Ground(), seed) for person in alone
                ]
                continue
            for way in ways:
                longer = count if way == "each" else 1
                scaled = {**settings, "steps_outer": longer * settings["steps_outer"]}
                name = f"{count} {NAMES[way]}"
                people = PEOPLE[:count]
                jobs.append(job(people, name, scaled, QUESTIONS, Ground(), seed, way))
    return jobs


def job(
    people: Sequence[Person],
    variant: str,
    settings: Mapping[str, Any],
    questions: Sequence[Question],
    ground: Ground,
    seed: int,
    way: str = "same",
) -> dict[str, Any]:
    """One protection of all `people`, attacked for each of them.

    Args:
        way: with "added" and "kept" each is added to the model that protects those before.
    """
    return {
        "people": [[person.class_noun, person.seed, person.other] for person in people],
        "variant": variant,
        **({"one_by_one": True} if way in ("added", "kept") else {}),
        **({"kept": KEPT} if way == "kept" else {}),
        "settings": dict(settings),
        "protection_seed": seed,
        "model": weights(),
        "attack": dict(POCKET.attack),
        "questions": [table_of(question) for question in questions],
        "images": ground.images,
        "class_images": ground.class_images,
        **({"sampler_steps": ground.sampler_steps} if ground.sampler_steps else {}),
    }


def work(asked: Job) -> dict[str, Any]:
    """Run one job in this process: name of every subject → its result, as `trials.work` has it."""
    people = [Person(*who) for who in asked["people"]]
    ground = Ground(
        Path(asked["root"]), asked["images"], asked["class_images"], asked.get("sampler_steps")
    )
    settings, seed = asked["settings"], asked["protection_seed"]
    steps = [people]
    if asked.get("one_by_one"):
        steps = [[person] for person in people]
    run, known = None, []
    kept = asked.get("kept")
    for added in steps:
        known.append([[person.class_noun, person.seed] for person in added])
        made_of = digest([known, settings, asked["model"], *([kept] if kept else [])])
        name = f"subjects-{sum(map(len, known))}-{made_of}-seed-{seed}"
        if kept is None:
            run = ground.protect_together(added, settings, name, seed, onto=run)
            continue
        held = {}
        if run is not None:
            require_displacements(run)  # as the command does; without them this is `added`
            held = {"preservation": {"displaced": kept["weight"]}}
        run = ground.protect_together(
            added,
            merge(settings, held),
            name,
            seed,
            onto=run,
            keep_attackers=kept["rank"],
        )
    assert run is not None
    return {
        person.name: answers_of(ground, view, person, asked["questions"])
        for person, view in zip(people, run.each, strict=True)
    }


def of_each(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for every subject of every job, as benchmarks of one identity have it."""
    return [
        {
            "job": {**one["job"], "class": noun, "identity": seed, "other": other},
            "result": one["result"][Person(noun, seed, other).name],
        }
        for one in found
        for noun, seed, other in one["job"]["people"]
    ]


COLUMNS = {
    "work_factor": "work factor",
    "class_distance_ratio": "class distance ratio",
    "class_same_seed": "same seed",
    "other_identities_kept": "other kept",
    "other_work_factor": "its work factor",
    "protect_seconds": "seconds",
}


def table_of_subjects(rows: Sequence[Mapping[str, Any]]) -> str:
    """One Markdown line for every subject in every protection; seconds are of the protection."""
    lines = [f"| subject | protected | seed | {' | '.join(COLUMNS.values())} |"]
    lines.append("|---|---|---|" + "---|" * len(COLUMNS))
    for row in sorted(rows, key=lambda one: one["job"]["identity"]):
        asked, measured = row["job"], cell(row["result"])
        texts = [_text(measure, measured[measure]) for measure in COLUMNS]
        who = f"{asked['class']}-{asked['identity']}"
        told = f"| {who} | {asked['variant']} | {asked['protection_seed']} |"
        lines.append(f"{told} {' | '.join(texts)} |")
    return "\n".join(lines)


def _text(measure: str, value: Any) -> str:
    if value is None:
        return "–"
    if measure in FACTORS:
        return str(value.text)
    if measure == "other_identities_kept":
        return f"{value:.0%}"
    return f"{value:.0f}" if measure == "protect_seconds" else f"{value:.2f}"


if __name__ == "__main__":
    main()
