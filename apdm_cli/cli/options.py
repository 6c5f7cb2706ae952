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
    str,
    typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:1 or mps.", rich_help_panel=COMPUTE),
]
Devices = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="NAME,...",
        help="auto, cpu, cuda or mps, or several cards with a worker on each: cuda:0,cuda:1.",
        rich_help_panel=COMPUTE,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        help="How many processes share the work; without it one on each device.",
        rich_help_panel=COMPUTE,
        min=1,
    ),
]
Dtype = Annotated[
    str, typer.Option(metavar="NAME", help="auto, fp32, bf16 or fp16.", rich_help_panel=COMPUTE)
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object on stdout.", rich_help_panel=OUTPUT),
]
Log = Annotated[
    Literal["tensorboard"] | None,
    typer.Option(
        "--log",
        metavar="KIND",
        help="tensorboard: also write event files.",
        rich_help_panel=OUTPUT,
    ),
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Print every number there is.", rich_help_panel=OUTPUT),
]
