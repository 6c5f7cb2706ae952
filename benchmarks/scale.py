"""What many cells cost beside the attacks themselves, and what a second worker gains.

    python -m benchmarks.scale [--cells 1000] [--listed 10000]
    python -m benchmarks.scale --speed-up

The first measures the queue with an attack that does nothing, `apdm runs` over a run of many
cells, and `apdm compare` of one; cells that were finished before are copies of one that was made.
The second attacks the embedded model with one worker and with two, and needs two cores with nothing
else to do. Either adds to `benchmarks/results/scale.json` and writes the table between the markers
of docs/scale.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from apdm_cli.extension.attack import Artifact, Attack, Bench
from apdm_cli.extension.manager import Origin, Registered, build_plugin_manager, families
from apdm_cli.harness.execute import Execution, SilentObserver
from apdm_cli.harness.plan import PlannedCell
from apdm_cli.harness.request import AttackRequest
from apdm_cli.pocket.profile import SOURCE, pocket_folder
from apdm_cli.pocket.samples import sample
from apdm_cli.report.assemble import compare_runs
from apdm_cli.report.evaluated import open_runs
from apdm_cli.report.publish import publish
from apdm_cli.runs.listing import list_runs
from apdm_cli.runs.manifest import MANIFEST, read_json, write_json_atomic
from tests.report.synthetic import attack_row, full_rows, make_run, score

RESULTS = Path(__file__).parent / "results" / "scale.json"
TABLE = Path(__file__).parents[1] / "docs" / "scale.md"
BEGIN, END = "<!-- measured -->", "<!-- /measured -->"
NEW = 20  # cells that are run beside those that are there
SEEDS = 8  # of the attacks that two workers share
SUBJECT = "person-9"
# key → what it is, its unit, and the most that it may be.
BARS = {
    "new": ("a cell whose attack does nothing, beside {cells:,} others", "ms", 50.0),
    "found": ("a finished cell among {cells:,}, planned and found again", "ms", 50.0),
    "listed": ("`apdm runs` over a run of {cells:,} cells", "s", 2.0),
    "compared": ("`apdm compare` of a run of {cells:,} cells", "s", 10.0),
}
LEAST = 1.7  # times as fast, with two workers on two cores


class Empty(Attack):
    """Trains nothing."""

    name = "empty"

    def trainable(self, model: Any, subject: Any, config: Any) -> Any:
        """Nothing trains."""
        raise NotImplementedError

    def run(self, bench: Bench, config: Any) -> Artifact:
        """Leave one number."""
        save_file({"nothing": torch.zeros(1)}, bench.artifact_folder / "nothing.safetensors")
        return Artifact("lora", bench.artifact_folder)


@dataclass(frozen=True)
class Took:
    """How long something took, in seconds: by the clock, and of the processor."""

    clock: float
    processor: float

    def __sub__(self, other: Took) -> Took:
        return Took(self.clock - other.clock, self.processor - other.processor)

    def __truediv__(self, count: int) -> Took:
        return Took(self.clock / count, self.processor / count)


def queue(folder: Path, cells: int) -> dict[str, Took]:
    """For a cell that is found finished, and for a new one beside `cells` others."""
    execution, planned = _plan(folder, 1)
    assert [outcome.status for outcome in execution.run(planned)] == ["done"]
    (first,) = planned
    _, many = _plan(folder, cells)
    for one in many[1:]:
        _copy_cell(first.cell.path, one.cell.path, one.job.seed)

    def run(count: int) -> Took:
        before = _now()
        execution, planned = _plan(folder, count)
        statuses = [outcome.status for outcome in execution.run(planned)]
        assert statuses == ["cached"] * cells + ["done"] * (count - cells)
        return _now() - before

    found = run(cells)
    return {"found": found / cells, "new": (run(cells + NEW) - found) / NEW}


def _plan(folder: Path, seeds: int) -> tuple[Execution, list[PlannedCell]]:
    available = {"empty": Registered(Empty(), Origin("empty", "benchmarks", "1"))}
    known = families(build_plugin_manager())
    photos = sample(SUBJECT)
    request = AttackRequest(
        folder,
        torch.device("cpu"),
        torch.float32,
        model=str(pocket_folder()),
        original=SOURCE,
        plugins=("empty",),
        photos=(photos.seen,),
        class_noun=photos.class_noun,
        seeds=tuple(range(seeds)),
        wanted=("protected",),
        known=known,
    )
    arms, cells, _ = request.plan(available)  # type: ignore[arg-type]
    return Execution(arms, folder, SilentObserver()), cells


def _copy_cell(source: Path, target: Path, seed: int) -> None:
    """What `source` would be with another seed."""
    shutil.copytree(source, target)
    manifest = read_json(source / MANIFEST)
    (target / MANIFEST).write_text(json.dumps({**manifest, "seed": seed}, indent=2))


def listed(folder: Path, cells: int) -> Took:
    """To list a run of `cells` finished cells."""
    execution, planned = _plan(folder, 1)
    execution.run(planned)
    source = planned[0].cell.path
    for number in range(1, cells):
        shutil.copytree(source, source.with_name(f"empty-{number:012x}"))
    before = _now()
    (run,) = list_runs(folder)
    assert run.attacks_done == cells
    return _now() - before


def compared(folder: Path, cells: int) -> Took:
    """To compare a run of `cells` evaluated cells, half of them on the original."""
    attacks = [
        attack_row("lora", arm, score(value), score(30.0, "brisque"), variant=f"rank={number}")
        for number in range(cells // 2)
        for arm, value in (("original", 0.6), ("protected", 0.2))
    ]
    others = [row for row in full_rows() if row["role"] != "attack"]
    make_run(folder, "many", [*attacks, *others], pictures=4)
    before = _now()
    runs = open_runs(folder, ["many"])
    publish(compare_runs(runs), runs)
    return _now() - before


def speed_up(folder: Path) -> dict[str, float]:
    """Seconds of the same `apdm attack` with one worker and with two, and their ratio."""
    found = {}
    for workers in (1, 2):
        out = folder / str(workers)
        photos = sample(SUBJECT)
        command = [sys.executable, "-m", "apdm_cli.cli.main", "attack", "--out", str(out)]
        command += ["--model", str(pocket_folder()), "--original", SOURCE, "--device", "cpu"]
        command += ["--photos", str(photos.seen), "--subject-class", photos.class_noun]
        command += ["--plugin", "dreambooth", "--seeds", str(SEEDS), "--workers", str(workers)]
        environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
        before = _now()
        subprocess.run(command, check=True, env=environment)
        found[f"seconds_{workers}"] = round((_now() - before).clock, 1)
    return {**found, "cells": 2 * SEEDS, "ratio": round(found["seconds_1"] / found["seconds_2"], 2)}


def _now() -> Took:
    return Took(time.perf_counter(), time.process_time())


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = ["| what | measured | wanted |", "|---|---|---|"]
    for key, (what, unit, bar) in BARS.items():
        if key in results:
            found, words = results[key], what.format(cells=results[key]["cells"])
            took = f"{found['value']:.3g} {unit} ({found['processor']:.3g} {unit} of the processor)"
            lines.append(f"| {words} | {took} | at most {bar:g} {unit} |")
    if "ratio" in results:
        found = results["speed_up"]
        what = f"two workers on two cores, {found['cells']} cells of DreamBooth"
        what += f" ({found['seconds_2']:g} s instead of {found['seconds_1']:g} s)"
        lines.append(f"| {what} | {results['ratio']:g} × | at least {LEAST:g} × |")
    return "\n".join(lines)


def write(results: dict[str, Any]) -> None:
    """Both files."""
    write_json_atomic(RESULTS, results)
    before, _, rest = TABLE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    text = f"{before}{BEGIN}\n{table(results)}\n\n{results['machine']}\n{END}{after}"
    TABLE.write_text(text, encoding="utf-8")


def machine() -> str:
    """What it was measured on, and how busy that was."""
    busy = f", {os.getloadavg()[0]:.1f} processes at work" if hasattr(os, "getloadavg") else ""
    what = f"{platform.machine()}, torch {torch.__version__}"
    return f"On {os.cpu_count()} cores ({what}){busy} when the last of these was begun."


def _row(took: Took, unit: int, cells: int) -> dict[str, float]:
    """For the results; `unit` of them are a second."""
    clock, processor = round(took.clock * unit, 3), round(took.processor * unit, 3)
    return {"value": clock, "processor": processor, "cells": cells}


def main() -> None:
    """Measure, and write both files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--listed", type=int, default=10_000)
    parser.add_argument("--speed-up", action="store_true", help="two workers against one, instead")
    options = parser.parse_args()
    results = {**(read_json(RESULTS) if RESULTS.exists() else {}), "machine": machine()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.speed_up:
            found = speed_up(folder)
            results |= {"speed_up": found, "ratio": found["ratio"]}
        else:
            many = options.cells
            for key, took in queue(folder / "queue", many).items():
                results[key] = _row(took, 1000, many)
            results["listed"] = _row(listed(folder / "listed", options.listed), 1, options.listed)
            results["compared"] = _row(compared(folder / "compared", many), 1, many)
    write(results)
    print(table(results))


if __name__ == "__main__":
    main()
