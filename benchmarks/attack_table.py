"""Every attack against the original and a protected pocket model: which one wins?

    python -m benchmarks.attack_table [--suite full] [--seeds 2] [--processes 2]

Runs the four commands for packaged identities (resumable: finished cells are skipped), writes
`benchmarks/results/attack_table.json` and prints the table as Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from apdm_cli.pocket.samples import sample
from apdm_cli.runs.manifest import read_json

RESULT = Path(__file__).parent / "results" / "attack_table.json"
SUBJECTS = ("person-3", "person-4", "dog-1")
METRIC = "dino"
# What no suite can say: sizes depend on the model, and few attackers have the original weights.
MORE = (
    ["--plugin", "dreambooth", "--set", "learning_rate=2e-4"],
    ["--plugin", "dreambooth", "--set", "steps=150"],
    ["--plugin", "adaptive-objective", "--set", "variant=interpolate"],
)


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", default="full", help="quick, standard, full or a TOML file")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path("runs/attack-table"))
    parser.add_argument(
        "--processes", type=int, default=2, help="subjects at once, one thread each"
    )
    options = parser.parse_args()
    with ThreadPoolExecutor(options.processes) as pool:
        runs = list(pool.map(lambda name: run_subject(name, options), SUBJECTS))
    rows = collect(runs)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps({"subjects": SUBJECTS, "rows": rows}, indent=2) + "\n")
    print(table(rows))


def run_subject(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The four commands for one identity; its part of comparison.json."""
    seen, noun = str(sample(name).seen), sample(name).class_noun
    # Own folder a subject: two processes must not make the same control cell.
    out = options.out / name
    common = ["--out", str(out)]
    if not (out / name / "manifest.json").is_file():
        apdm("protect", seen, "--class", noun, "--name", name, *common)
    unseen = ["--plugin", "dreambooth", "--photos", str(sample(name).unseen)]
    for attack in (["--suite", options.suite], *MORE, unseen):
        apdm("attack", name, *attack, "--seeds", str(options.seeds), *common)
    apdm("evaluate", name, "--metrics", METRIC, "--images", str(options.images), *common)
    apdm("compare", name, *common)
    return read_json(out / name / "comparison.json")["runs"][0]


def apdm(*arguments: str) -> None:
    """One command in its own process with one thread; a failing attack cell does not stop us."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "apdm_cli.cli.main", *arguments]
    finished = subprocess.run(command, env=environment, check=False)
    if finished.returncode and arguments[0] != "attack":
        raise SystemExit(f"apdm {' '.join(arguments)} ended with {finished.returncode}")


def collect(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row an attack: means and spreads over subjects and seeds, both arms."""
    found: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        level = {
            line["role"]: line["original"]["value"]
            for line in run["lines"]
            if line["role"] in ("floor", "ceiling") and line["metric"] == METRIC
        }
        for line in run["lines"]:
            if line["role"] == "attack" and line["metric"] == METRIC:
                row = found.setdefault(line["label"], {})
                for arm in ("original", "protected"):
                    row.setdefault(arm, []).extend(line[arm]["per_seed"] if line[arm] else [])
                for role, value in level.items():
                    row.setdefault(role, []).append(value)
    return [{"attack": label, **_summary(row)} for label, row in found.items()]


def _summary(row: dict[str, list[float]]) -> dict[str, Any]:
    summary: dict[str, Any] = {"n": len(row.get("original", []))}
    for key, values in row.items():
        if values:
            summary[key] = round(statistics.mean(values), 3)
            summary[f"{key}_spread"] = round(statistics.pstdev(values), 3)
    return summary


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown, the strongest attack on the protected model first."""
    lines = [
        "| attack | original | protected | floor | ceiling | n |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: -row.get("protected", 0)):
        cells = (
            f"{row.get(arm, float('nan')):.2f} ± {row.get(arm + '_spread', float('nan')):.2f}"
            for arm in ("original", "protected")
        )
        lines.append(
            f"| {row['attack']} | {' | '.join(cells)} | {row.get('floor', 0):.2f} "
            f"| {row.get('ceiling', 0):.2f} | {row['n']} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
