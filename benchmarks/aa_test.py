"""A/A test of the comparison: the same model in both arms; how often does an interval miss zero?

    python -m benchmarks.aa_test [--trials 40]

Each trial is one held-out person, attacked on the original model in "both arms", whose attack
seeds and sampling seeds differ. If the intervals that `apdm compare` prints are right, about 95 %
of those of the difference contain zero. Counted with one seed in each arm, where the interval
knows the pictures and photos only, and with three, where it knows the seeds too. Resumable; writes
`benchmarks/results/aa_test.json`.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor

from apdm_cli.evaluation.intervals import pairs_interval
from apdm_cli.evaluation.similarity import cosines
from apdm_cli.report.intervals import Sample, difference, resample
from apdm_cli.subject import Subject
from benchmarks.jobs import Job, run_jobs
from benchmarks.pocket_jobs import CACHE, RESULTS, weights
from benchmarks.pocket_lab import SEEN, AttackSettings, Lab, as_pictures, held_out_subject
from pocket_training.plan import HELD_OUT_FROM

FIRST = HELD_OUT_FROM + 600  # apart from search, effect, ablation and card
PICTURES = 16
ARMS = ((0, 1, 2), (100, 101, 102))  # attack seeds
COUNTS = (1, 3)  # seeds used in each arm


def work(job: Job) -> dict[str, Any]:
    """Scores [value, low, high] of every attack seed in both arms."""
    lab = Lab(CACHE, AttackSettings(**job["attack"]))
    subject = held_out_subject("person", job["identity"], SEEN)
    photos = lab.features(as_pictures(subject.photos))
    return {"arms": [[_score(lab, subject, photos, seed) for seed in arm] for arm in ARMS]}


def _score(lab: Lab, subject: Subject, photos: Tensor, seed: int) -> list[float | None]:
    (attacked,) = lab.personalize(lab.model, subject, seed, (lab.attack.steps,))
    # Pictures of two seeds have nothing in common, as those of two attacks in the harness.
    first = 1_000_000 * (1 + zlib.crc32(f"{subject.name}/{seed}".encode()) % 1000)
    drawn = lab.draw(attacked, subject.personal_prompt, PICTURES, first)
    matrix = cosines(photos, lab.features(drawn))
    return [float(matrix.mean()), *pairs_interval(matrix)]


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


def main() -> None:
    """Run what is missing; count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--trials", type=int, default=40)
    trials = parser.parse_args().trials
    settings = {"attack": asdict(AttackSettings()), "model": weights()}
    jobs = [{"identity": FIRST + i, **settings} for i in range(trials)]
    rows = run_jobs(jobs, work, RESULTS / "aa_test.jsonl")
    document: dict[str, Any] = {"trials": trials, "pictures": PICTURES, "arms": ARMS}
    for seeds in COUNTS:
        found = differences(rows, seeds)
        holds = sum(d["low"] <= 0 <= d["high"] for d in found)
        document[f"seeds_{seeds}"] = {"contain_zero": holds, "differences": found}
        print(f"{seeds} seed(s) in each arm: {holds} of {trials} intervals contain zero")
    (RESULTS / "aa_test.json").write_text(json.dumps(document, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
