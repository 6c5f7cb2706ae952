"""Settings for the pocket preset: each tried on identities that are used for choosing only.

    python -m benchmarks.pocket_search [VARIANT ...]

Appends to `benchmarks/results/pocket_search.jsonl`; docs/pocket-search.md tells what was learnt.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.jobs import Job, run_jobs
from benchmarks.pocket_lab import Lab
from benchmarks.pocket_trial import trial, undefended
from benchmarks.variants import VARIANTS

RESULTS = Path(__file__).parent / "results"
LOG = RESULTS / "pocket_search.jsonl"
CACHE = Path(tempfile.gettempdir()) / "apdm-pocket-lab"
# For choosing; the effect table reports on others.
CHOOSING = [("person", 1_000_300), ("person", 1_000_301)]
OTHER = 1_000_390
ATTACK_SEEDS = (0,)


def baseline_job(class_noun: str, seed: int, attack_seeds: tuple[int, ...]) -> dict[str, Any]:
    """The undefended model attacked with this identity."""
    return {
        "kind": "undefended", "class": class_noun, "identity": seed, "seeds": list(attack_seeds),
    }  # fmt: skip


def trial_job(
    variant: str, class_noun: str, seed: int, other: int, attack_seeds: tuple[int, ...]
) -> dict[str, Any]:
    """One variant on one identity."""
    return {
        "kind": "protected", "variant": variant, "settings": VARIANTS[variant],
        "class": class_noun, "identity": seed, "other": other, "seeds": list(attack_seeds),
    }  # fmt: skip


def work(job: Job) -> dict[str, Any]:
    """Run one job; `baseline` of a protected job is its undefended row."""
    lab = Lab(CACHE)
    if job["kind"] == "undefended":
        reached = undefended(lab, job["class"], job["identity"], job["seeds"])
        return reached
    settings = dict(job["settings"])
    return trial(
        lab, settings, job["class"], job["identity"], job["other"], job["seeds"], job["baseline"]
    )


def main() -> None:
    """Run the named variants (all without names)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=", ".join(VARIANTS))
    options = parser.parse_args()
    chosen = options.variants or list(VARIANTS)
    baselines = run_jobs([baseline_job(c, s, ATTACK_SEEDS) for c, s in CHOOSING], work, LOG)
    known = {row["job"]["identity"]: row["result"] for row in baselines}
    jobs = [
        {**trial_job(v, c, s, OTHER, ATTACK_SEEDS), "baseline": known[s]}
        for c, s in CHOOSING
        for v in chosen
    ]
    run_jobs(jobs, work, LOG)


if __name__ == "__main__":
    main()
