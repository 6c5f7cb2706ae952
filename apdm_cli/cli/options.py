"""Options that several commands share, spelled once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

COMPUTE, OUTPUT, DRAWING = "Computing", "Output", "Drawing"

Root = Annotated[Path, typer.Option("--out", help="Folder of all runs.", rich_help_panel=OUTPUT)]
Device = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="cpu, mps, cuda or cuda:0,cuda:1.",
        rich_help_panel=COMPUTE,
    ),
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
ClusterAddress = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="ADDRESS",
        help="Let workers of a Ray cluster do the work: auto, or ray://HOST:PORT. Machines that do "
        "not see the folder of runs are sent what they need, but no photos.",
        rich_help_panel=COMPUTE,
    ),
]
GpusPerWorker = Annotated[
    float | None,
    typer.Option(
        "--gpus-per-worker",
        metavar="X",
        help="Cards of the cluster for each worker, such as 0.5; 0 is the processor. Without "
        "it 1 where there are any.",
        rich_help_panel=COMPUTE,
        min=0,
    ),
]
Dtype = Annotated[
    str, typer.Option(metavar="NAME", help="auto, fp32, bf16 or fp16.", rich_help_panel=COMPUTE)
]
SubjectName = Annotated[
    str | None,
    typer.Option(
        "--subject",
        metavar="NAME",
        help="Only this one of the subjects that the run protects; without it each of them.",
    ),
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
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Show the plan, and write nothing.", rich_help_panel=OUTPUT),
]
PluginFile = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE", help="A Python file to load as a plugin; repeatable."),
]

# How the pictures of attacked models are drawn. `apdm attack` and `apdm evaluate` must mean the
# same by these: a budget's pictures are drawn by the first and scored by the second.
Prompts = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Which prompts to draw: identity, object, diverse or a text file.",
        rich_help_panel=DRAWING,
    ),
]
Images = Annotated[
    int,
    typer.Option(
        metavar="N",
        help="Pictures to draw with each attacked model.",
        rich_help_panel=DRAWING,
        min=1,
    ),
]
Sampler = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="How pictures are drawn: ddim, pndm, dpmsolver++ or euler, where the model's family "
        "has it. Without it, the one that is usual there.",
        rich_help_panel=DRAWING,
    ),
]
Guidance = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="Guidance. Without it, what is usual for the model's family.",
        rich_help_panel=DRAWING,
        min=0,
    ),
]


def _sampler_steps(name: str) -> Any:
    return typer.Option(
        name,
        metavar="N",
        help="Steps of the sampler. Without it, as many as are usual for the model's family.",
        rich_help_panel=DRAWING,
        min=1,
    )


# The steps of an attack are those of its training, so that its sampler's have the longer name.
SamplerSteps = Annotated[int | None, _sampler_steps("--sampler-steps")]
Steps = Annotated[int | None, _sampler_steps("--steps")]
