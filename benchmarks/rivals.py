"""Every protection against the same attacks, at equal protection time; resumable.

    python -m benchmarks.rivals [METHOD ...] [--identities 3] [--seeds 2] [--workers 2]
    python -m benchmarks.rivals --suite mine.toml     # these attacks besides, such as `adaptive`
    python -m benchmarks.rivals --cluster auto        # a job is a task of a Ray cluster, whose
                                                      # machines all see this checkout
    python -m benchmarks.rivals --summary             # of what is there, nothing is run

Appends to `benchmarks/results/rivals.jsonl` and writes the JSON beside it; with a suite to
`rivals_mine.jsonl`, where attacks that lie in the folder of runs already are not run again. Every
method takes about as long as the preset `pocket` of `apdm`: the steps are those in its own preset
`pocket`, or here. None of them was tuned on these identities. Cells of the original are shared with
`benchmarks.pocket_effect`.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apdm_cli.errors import ApdmError
from apdm_cli.runs.jsonl import read_rows
from benchmarks.ground import ROOT, Ground, Person, Question, whole_settings
from benchmarks.pocket_effect import CURVE, PEOPLE
from benchmarks.pocket_summary import by_variant, similarities, text_of, write
from benchmarks.trials import RESULTS, job, run

# Settings over each method's preset `pocket`. The preset of `naive` is shorter than the others'.
# An iteration of `anti-dreambooth` takes 1.47 s of the processor where a step of `imma`, of which
# 1650 take 376 s, takes 0.25 s (medians, one after another on one thread): its 250 take as long as
# the others.
METHODS: dict[str, dict[str, Any]] = {
    "apdm": {},
    "naive": {"steps": 3000},
    "erase": {},
    "imma": {},
    "sophon": {},
    "self-destruct": {},
    "anti-dreambooth": {},
}
# A person, a dog and a cat, each with one other who is to stay teachable.
WHO = [Person(who.class_noun, who.seed, who.other) for who in (PEOPLE[0], PEOPLE[1], PEOPLE[3])]
QUESTIONS = [
    Question("seen", (0,), (*CURVE, 6.0)),
    Question("lora", (0,), CURVE, attack="lora"),
    Question("other", (0,), CURVE, photos="other"),
]
ASKED = {question.name for question in QUESTIONS}
LORA = {"work_factor": "lora_work_factor", "cut_seen": "lora_cut"}
COLUMNS = {
    "work_factor": "work factor, DreamBooth",
    "cut_seen": "cut",
    "lora_work_factor": "work factor, LoRA",
    "lora_cut": "cut",
    "class_distance_ratio": "class distance ratio",
    "other_identities_kept": "others kept",
    "protect_seconds": "seconds",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing, write the file, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=", ".join(METHODS))
    parser.add_argument("--identities", type=int, default=len(WHO), help="the first so many")
    parser.add_argument("--seeds", type=int, default=2, help="of the protection")
    parser.add_argument("--suite", help="more attacks: its name or a TOML file")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument(
        "--cluster", metavar="ADDRESS", help="of a Ray cluster whose processors do it: auto"
    )
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of photos and runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--summary", action="store_true", help="run nothing: of all that is there")
    asked = parser.parse_args(argv)
    unknown = [name for name in asked.methods if name not in METHODS]
    if unknown:
        parser.error(f"there is no method {unknown[0]}; known are {', '.join(METHODS)}")
    name = f"rivals_{Path(asked.suite).stem}" if asked.suite else "rivals"
    log = asked.results / f"{name}.jsonl"
    if asked.summary:
        # A method whose preset has changed since counts as it was measured last.
        last = {_of_whom(row["job"]): row for row in read_rows(log)}
        rows = list(last.values())
    else:
        who = WHO[: asked.identities]
        jobs = all_jobs(asked.methods or list(METHODS), who, asked.seeds, asked.suite)
        try:
            rows = run(jobs, log, root=asked.root, workers=asked.workers, cluster=asked.cluster)
        except ApdmError as error:
            if asked.cluster is None:
                raise
            parser.exit(error.exit_code, f"{error}\n")  # of a machine far away: no traceback here
    write(asked.results / f"{name}.json", rows, by_variant(rows))
    print(table(rows))
    if asked.suite:
        print(f"\n{table_of_suite(rows)}")


def all_jobs(
    methods: Sequence[str], people: Sequence[Person], seeds: int, suite: str | None = None
) -> list[dict[str, Any]]:
    """Seed by seed and identity by identity: a stop leaves every method with the same."""
    more = [Question("suite", (0,), suite=suite)] if suite else []
    return [
        job(
            person,
            name,
            whole_settings(METHODS[name], name),
            [*QUESTIONS, *more],
            Ground(),
            seed,
            method=name,
        )
        for seed in range(seeds)
        for person in people
        for name in methods
    ]


def _of_whom(job: Mapping[str, Any]) -> tuple[Any, ...]:
    return job["variant"], job["class"], job["identity"], job["protection_seed"]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """One Markdown line a method: means ± spread over identities, the highest work factor first."""
    dreambooth, lora = by_variant(rows), by_variant([_by(row, "lora") for row in rows])
    lines = [f"| method | {' | '.join(COLUMNS.values())} | protections |"]
    lines.append("|---|" + "---|" * (len(COLUMNS) + 1))
    for name, found in sorted(dreambooth.items(), key=lambda item: -(item[1]["work_factor"] or 0)):
        texts = {measure: text_of(measure, found) for measure in COLUMNS if measure in found}
        texts |= {mine: text_of(measure, lora[name]) for measure, mine in LORA.items()}
        count = sum(row["job"]["variant"] == name for row in rows)
        lines.append(f"| {name} | {' | '.join(texts[one] for one in COLUMNS)} | {count} |")
    return "\n".join(lines)


def table_of_suite(rows: Sequence[Mapping[str, Any]]) -> str:
    """One Markdown line an attack and model: mean similarity at every budget, work factor, cut.

    An attack that failed on an identity counts on the others.
    """
    answers = [one for row in rows for one in row["result"]["rows"] if one["question"]]
    further = [one for one in answers if one["question"] not in ASKED]
    budgets = sorted({one["budget"] for one in further})
    methods = list(dict.fromkeys(row["job"]["variant"] for row in rows))

    def means(attack: str, arm: str, method: str | None = None) -> str:
        results = [row["result"] for row in rows if method in (None, row["job"]["variant"])]
        each = ([similarities(one, attack, arm, budget) for one in results] for budget in budgets)
        found = [[value for one in of_budget for value in one.values()] for of_budget in each]
        return " | ".join(f"{statistics.mean(values):.2f}" if values else "–" for values in found)

    after = " | ".join(f"after {budget:g}" for budget in budgets)
    lines = [f"| attack | model | {after} | work factor | cut |"]
    lines.append("|---|---|" + "---|" * (len(budgets) + len(LORA)))
    for attack in dict.fromkeys(one["question"] for one in further):
        lines.append(f"| {attack} | original | {means(attack, 'original')} | | |")
        found = by_variant([_by(row, attack) for row in rows])
        for name in methods:
            texts = " | ".join(text_of(measure, found[name]) for measure in LORA)
            lines.append(f"| | {name} | {means(attack, 'protected', name)} | {texts} |")
    return "\n".join(lines)


def _by(row: Mapping[str, Any], question: str) -> dict[str, Any]:
    """The same row, as if that were the attack with the photos that were protected."""
    found = [one for one in row["result"]["rows"] if one["question"] != "seen"]
    renamed = [{**one, "question": "seen"} if one["question"] == question else one for one in found]
    return {**row, "result": {**row["result"], "rows": renamed}}


if __name__ == "__main__":
    main()
