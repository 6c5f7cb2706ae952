"""A/A test of the comparison: the same model in both arms; how often does an interval miss zero?

    python -m benchmarks.aa_test [--trials 40]

Each trial is one held-out person, attacked on the original model in "both arms", whose attack
seeds differ and whose sampling seeds are the same, as those of both models are in a comparison. If
the intervals that `apdm compare` prints are right, about 95 % of those of the difference contain
zero. Counted with one seed in each arm, where the interval knows the pictures and photos only, and
with three, where it knows the seeds too. Resumable; writes `benchmarks/results/aa_test.json`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apdm_cli.pocket.profile import POCKET
from apdm_cli.report.intervals import Sample, difference, resample
from benchmarks.ground import ROOT, SIMILARITY, Ground, Person, Question, weights
from benchmarks.jobs import Job, run_jobs
from benchmarks.trials import RESULTS, InFolder
from pocket_training.plan import HELD_OUT_FROM

FIRST = HELD_OUT_FROM + 600  # apart from search, effect, ablation and card
ARMS = ((0, 1, 2), (100, 101, 102))  # attack seeds
COUNTS = (1, 3)  # seeds used in each arm


def work(job: Job) -> dict[str, Any]:
    """Scores [value, low, high] of every attack seed in both arms."""
    ground = Ground(Path(job["root"]), job["images"], sampler_steps=job.get("sampler_steps"))
    person = Person("person", job["identity"], job["identity"])
    run = ground.original(person)
    settings = job.get("settings", {})
    questions = [
        Question(str(number), tuple(seeds), settings=settings)
        for number, seeds in enumerate(job["arms"])
    ]
    asked = ground.ask(run, person, questions)
    found: list[dict[int, list[float | None]]] = [{} for _ in questions]
    for row in ground.evaluate(run).rows:
        if row.cell in asked:
            score = next(one for one in row.scores if one.metric == SIMILARITY)
            found[int(asked[row.cell])][row.seed] = [score.value, score.low, score.high]
    return {
        "arms": [
            [scores[seed] for seed in seeds]
            for scores, seeds in zip(found, job["arms"], strict=True)
        ]
    }


def differences(rows: Sequence[dict[str, Any]], seeds: int) -> list[dict[str, float]]:
    """The difference of the arms in every trial, with its interval, using `seeds` seeds."""
    found = []
    for row in rows:
        arms = [[Sample(*score) for score in arm[:seeds]] for arm in row["result"]["arms"]]
        first, second = resample(arms, f"aa/{row['job']['identity']}")
        of = difference(first, second)
        assert of.interval is not None
        found.append({"value": of.value, "low": of.interval[0], "high": of.interval[1]})
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing; count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of photos and runs")
    asked = parser.parse_args(argv)
    same = {
        "model": weights(),
        "attack": dict(POCKET.attack),
        "images": Ground().images,
        "arms": [list(seeds) for seeds in ARMS],
    }
    jobs = [{"identity": FIRST + i, **same} for i in range(asked.trials)]
    log = RESULTS / "aa_test.jsonl"
    rows = run_jobs(jobs, InFolder(work, asked.root), log, asked.workers)
    document: dict[str, Any] = {"trials": asked.trials, "pictures": same["images"], "arms": ARMS}
    for seeds in COUNTS:
        found = differences(rows, seeds)
        holds = sum(d["low"] <= 0 <= d["high"] for d in found)
        document[f"seeds_{seeds}"] = {"contain_zero": holds, "differences": found}
        print(f"{seeds} seed(s) in each arm: {holds} of {asked.trials} intervals contain zero")
    (RESULTS / "aa_test.json").write_text(json.dumps(document, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
