"""Options that several commands share, spelled once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

COMPUTE = "Computing"
OUTPUT = "Output"

Root = Annotated[
    Path, typer.Option("--out", help="Folder that holds all runs.", rich_help_panel=OUTPUT)
]
Device = Annotated[
    str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.", rich_help_panel=COMPUTE)
]
Dtype = Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.", rich_help_panel=COMPUTE)]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object on stdout.", rich_help_panel=OUTPUT),
]
Log = Annotated[
    Literal["tensorboard"] | None,
    typer.Option(
        "--log",
        metavar="tensorboard",
        help="Also write TensorBoard event files, beside the run's own log of its steps.",
        rich_help_panel=OUTPUT,
    ),
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Print every number there is.", rich_help_panel=OUTPUT),
]
