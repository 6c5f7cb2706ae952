"""Jobs of benchmarks: never one twice, and the same rows from a run and from its log."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import pytest

from apdm_cli.errors import ApdmError
from benchmarks.jobs import Job, run_jobs
from benchmarks.trials import add_settings, asked_settings
from tests.clusters import StandIn, stand_in

__all__ = ["stand_in"]  # a fixture

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


def test_a_job_is_a_task_of_a_cluster(tmp_path: Path, stand_in: StandIn) -> None:
    log = tmp_path / "jobs.jsonl"
    run_jobs(JOBS[1:], work, log, cluster="auto")
    everything = run_jobs(JOBS, work, log, cluster="auto")
    assert [row["result"]["square"] for row in everything] == [1, 4, 9]
    assert stand_in.done == 2 + 1, "two were there"
    assert run_jobs(JOBS, never, log, cluster="auto") == everything
    assert not list(tmp_path.glob(".tmp-*"))
    with pytest.raises(ApdmError, match=r"\{'n': 4\}"):
        run_jobs([*JOBS, {"n": 4}], never, log, cluster="auto")
    stand_in.within = lambda patch: patch.setattr("apdm_cli.harness.cluster.__version__", "0.0.1")
    with pytest.raises(ApdmError, match=r"has apdm 0\.0\.1, and the command runs with"):
        run_jobs([{"n": 5}], work, log, cluster="auto")


def test_a_setting_over_a_preset_is_asked_for_by_the_command_line() -> None:
    parser = argparse.ArgumentParser()
    add_settings(parser)
    usual = asked_settings(parser.parse_args([]))
    former = parser.parse_args(["--set", "average=.98", "--set", "average_last=0"])
    wanted = {key: value for key, value in usual.items() if key != "average_last"}
    assert asked_settings(former) == {**wanted, "average": 0.98}
