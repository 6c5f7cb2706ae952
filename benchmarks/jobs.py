"""Run many independent jobs, one process per core with one thread each, and never one twice.

On a Ray cluster, one job is one task on one processor.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from apdm_cli.runs.jsonl import StepLog, read_rows

Job = Mapping[str, Any]


def job_key(job: Job) -> str:
    """Canonical text of a job: what identifies its row."""
    return json.dumps(job, sort_keys=True)


def run_jobs(
    jobs: Sequence[Job],
    work: Callable[[Job], Mapping[str, Any]],
    log: Path,
    processes: int = 2,
    cluster: str | None = None,
) -> list[dict[str, Any]]:
    """Rows {"job", "result"} of `jobs`, from `log` where they are there, otherwise computed.

    Every row is appended to `log` as soon as it is known; call again to go on after a stop.

    Args:
        work: a module-level function, run in its own process with one thread.
        cluster: address of a Ray cluster whose tasks do it in the place of `processes` here. Every
            machine has to see the working directory, and in it the folder of `log`.
    """
    done = _finished(log)
    missing = [job for job in jobs if job_key(job) not in done]
    print(f"{len(jobs) - len(missing)} of {len(jobs)} jobs are there already", flush=True)
    if missing:
        log.parent.mkdir(parents=True, exist_ok=True)
        with StepLog(log) as rows:
            call = _Call(work)
            ended = (
                _in_processes(call, missing, processes)
                if cluster is None
                else _on_cluster(call, missing, cluster, log.parent)
            )
            for job, result in ended:
                row = {"job": dict(job), "result": dict(result)}
                rows.append(row)
                print(f"done: {_brief(job)}", flush=True)
        # Read back: the log has null for NaN, and a resumed run must return the same.
        done = _finished(log)
    return [done[job_key(job)] for job in jobs]


def _in_processes(call: _Call, jobs: Sequence[Job], processes: int) -> Iterator[Any]:
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, _one_thread) as pool:
        yield from pool.imap_unordered(call, jobs)


def _on_cluster(call: _Call, jobs: Sequence[Job], address: str, folder: Path) -> Iterator[Any]:
    from apdm_cli.harness.cluster import each_on_cluster

    # Ray gives a task on one processor one thread.
    return each_on_cluster(address, folder.resolve(), call, jobs)


def _finished(log: Path) -> dict[str, dict[str, Any]]:
    return {job_key(row["job"]): row for row in read_rows(log)} if log.exists() else {}


def _brief(job: Job) -> str:
    """The values of a job that are no tables, for the eye."""
    plain = {key: value for key, value in job.items() if not isinstance(value, (dict, list))}
    return json.dumps(plain)


def _one_thread() -> None:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    import torch

    torch.set_num_threads(1)


class _Call:
    """Picklable: returns the job beside its result, because results arrive in any order."""

    def __init__(self, work: Callable[[Job], Mapping[str, Any]]) -> None:
        self.work = work

    def __call__(self, job: Job) -> tuple[Job, Mapping[str, Any]]:
        return job, self.work(job)
