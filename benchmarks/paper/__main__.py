"""One table of the paper beside ours.

    python -m benchmarks.paper TABLE --subjects DIR ... [--model PATH|HUB_ID] [--out DIR]
    python -m benchmarks.paper TABLE --model pocket --scale tiny      # does it still run?

Resumable: what is finished is not done twice, and tables that share --out share protected models.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apdm_cli.errors import ApdmError, UsageError
from apdm_cli.pocket.profile import SOURCE as POCKET
from apdm_cli.runs.atomic import write_bytes_atomic
from benchmarks.paper.door import Door
from benchmarks.paper.gather import CAPTIONS, gather
from benchmarks.paper.lines import make_lines, markdown
from benchmarks.paper.readings import read_all
from benchmarks.paper.scale import TINY_NOTE
from benchmarks.paper.subjects import subjects_of
from benchmarks.paper.tables import FOLDER, Table, load_table, table_names


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    given = _parser().parse_args(argv)
    try:
        print(_run(given), end="")
    except ApdmError as error:
        from apdm_cli.cli.console import print_error

        print_error(error)
        return error.exit_code
    return 0


def _run(given: argparse.Namespace) -> str:
    """Run a table, keep it as Markdown and JSON in --out, and return what is to be printed."""
    table = load_table(given.table)
    model = given.model or table.model
    subjects = subjects_of(table, given.subjects, pocket=model == POCKET)
    table = _with_captions(table, given.captions, pocket=model == POCKET)
    compute = {"device": given.device, "dtype": given.dtype}
    attacking = {"seeds": given.seeds}
    door = Door(model, given.out, given.scale, compute, attacking, {"weights": given.weights})
    readings = read_all(table, subjects, gather(table, subjects, door))
    lines = make_lines(readings, model, given.scale)
    text = markdown(table, lines, model, given.scale)
    described: dict[str, Any] = {
        "table": given.table,
        "title": table.title,
        "model": model,
        "scale": given.scale,
        "notes": [*([TINY_NOTE] if given.scale == "tiny" else []), *table.notes],
        "rows": [line.as_json() for line in lines],
    }
    as_json = json.dumps(described, indent=2, ensure_ascii=False) + "\n"
    kept = given.table if given.scale == "full" else f"{given.table}-{given.scale}"
    write_bytes_atomic(given.out / f"{kept}.md", text.encode())
    write_bytes_atomic(given.out / f"{kept}.json", as_json.encode())
    return as_json if given.json else text


def _with_captions(table: Table, file: Path | None, pocket: bool) -> Table:
    """`table` with its captions among the options of `apdm evaluate`, where it needs some."""
    if not table.captions:
        return table
    if file is None and not pocket:
        raise UsageError(
            "--captions is missing: this table draws general captions.",
            "Give a text file with one caption a line.",
        )
    if file is not None and not file.is_file():
        raise UsageError(f"--captions {file}: there is no such file.")
    captions = file or FOLDER / "pocket_captions.txt"
    return table.model_copy(update={"evaluate": {**table.evaluate, CAPTIONS: captions}})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paper", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("table", metavar="TABLE", help=", ".join(table_names()))
    parser.add_argument("--model", metavar="PATH|HUB_ID|pocket", help="else the table's own")
    parser.add_argument("--scale", choices=("full", "tiny"), default="full", help=TINY_NOTE)
    parser.add_argument(
        "--subjects", metavar="DIR", type=Path, nargs="+", default=[], help="README.md: layout"
    )
    parser.add_argument("--captions", metavar="FILE", type=Path, help="for preservation")
    parser.add_argument("--weights", metavar="NAME=PATH", nargs="+", default=[], help="of metrics")
    parser.add_argument("--seeds", type=int, default=1, help="attack seeds; the mean is shown")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("runs") / "paper")
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    return parser


if __name__ == "__main__":
    sys.exit(main())
