"""The CI benchmark: protect, attack, evaluate, compare --require, as ci.toml says.

    python -m benchmarks.ci [--config benchmarks/ci.toml] [--out runs/ci] [--summary FILE]

Calls the commands themselves, in one process. Exit code: that of the first command that does not
end with 0; 3 when all ran and something required does not hold. Call it again after a stop: what
is finished is not done twice.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from apdm_cli.config import Settings, read_toml, resolve
from apdm_cli.pocket.samples import sample
from apdm_cli.runs.run import DONE, Run

SAMPLE = "sample:"


class Benchmark(Settings):
    """ci.toml: a table of options per command; `attack` is a list of such tables."""

    protect: dict[str, Any]
    attack: tuple[dict[str, Any], ...]
    evaluate: dict[str, Any] = Field(default_factory=dict)
    compare: dict[str, Any] = Field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.protect["name"])


def commands(benchmark: Benchmark, out: Path) -> list[list[str]]:
    """The arguments of every `apdm` call, in order."""
    protect = dict(benchmark.protect)
    photos = [_value(path) for path in protect.pop("photos")]
    end = ["--out", str(out)]
    return [
        ["protect", *photos, *options(protect), *end],
        *(["attack", benchmark.name, *options(table), *end] for table in benchmark.attack),
        ["evaluate", benchmark.name, *options(benchmark.evaluate), *end],
        ["compare", benchmark.name, *options(benchmark.compare), *end],
    ]


def options(table: Mapping[str, Any]) -> list[str]:
    """`{"images": 16, "set": {"a": {"b": 1}}}` as `--images 16 --set a.b=1`.

    A list repeats its option, true is a bare flag, false leaves it out.
    """
    words: list[str] = []
    for key, value in table.items():
        option = f"--{key.replace('_', '-')}"
        if isinstance(value, bool):
            words += [option] if value else []
            continue
        if isinstance(value, Mapping):
            values = [f"{name}={_value(leaf)}" for name, leaf in _leaves(value)]
        else:
            values = [_value(item) for item in (value if isinstance(value, list) else [value])]
        for item in values:
            words += [option, item]
    return words


def run(benchmark: Benchmark, out: Path, summary: Path | None = None) -> int:
    """Run all of it; the exit code. Appends Markdown to `summary`, for a job summary."""
    for arguments in commands(benchmark, out):
        command = arguments[0]
        if command == "protect":
            state = next((r.status for r in Run.all(out) if r.name == benchmark.name), None)
            if state == DONE:
                continue
            arguments += ["--resume"] if state else []
        print(f"$ apdm {' '.join(arguments)}", file=sys.stderr, flush=True)
        started = time.monotonic()
        code = call(arguments)
        print(f"  {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        if command == "compare" and summary is not None and code in (0, 3):
            _append_markdown(out / benchmark.name, summary)
        if code:
            return code
    return 0


def call(arguments: Sequence[str]) -> int:
    """Run one `apdm` command in this process; its exit code."""
    from apdm_cli.cli.main import main as apdm

    try:
        apdm(arguments)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    return 0


def _append_markdown(run_folder: Path, summary: Path) -> None:
    from apdm_cli.report.schema import Comparison
    from apdm_cli.report.table import markdown

    comparison = Comparison.model_validate_json((run_folder / "comparison.json").read_bytes())
    with summary.open("a", encoding="utf-8") as file:
        file.write(markdown(comparison))


def _value(value: Any) -> str:
    if isinstance(value, str) and value.startswith(SAMPLE):
        name, _, which = value.removeprefix(SAMPLE).partition("/")
        found = sample(name)
        return str(found.unseen if which == "unseen" else found.seen)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ci", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("ci.toml"))
    parser.add_argument("--out", type=Path, default=Path("runs") / "ci")
    parser.add_argument("--summary", type=Path, help="append the Markdown table to this file")
    given = parser.parse_args(argv)
    return run(resolve(Benchmark, read_toml(given.config)), given.out, given.summary)


if __name__ == "__main__":
    sys.exit(main())
