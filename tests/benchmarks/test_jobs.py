"""Jobs of benchmarks: never one twice, and the same rows from a run and from its log."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from benchmarks.jobs import Job, run_jobs

JOBS = [{"n": 1}, {"n": 2}, {"n": 3}]


def work(job: Job) -> dict[str, Any]:
    """The square, and a value that JSON does not have."""
    return {"square": job["n"] ** 2, "loss": math.nan}


def never(job: Job) -> dict[str, Any]:
    """Fails: for jobs that are done already."""
    raise AssertionError(job)


def test_jobs_come_in_their_order_and_are_not_run_twice(tmp_path: Path) -> None:
    log = tmp_path / "jobs.jsonl"
    some = run_jobs(JOBS[1:], work, log, processes=1)
    assert [row["result"]["square"] for row in some] == [4, 9]
    everything = run_jobs(JOBS, work, log, processes=1)
    assert [row["result"]["square"] for row in everything] == [1, 4, 9]
    assert run_jobs(JOBS, never, log, processes=1) == everything
