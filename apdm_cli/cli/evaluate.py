"""`apdm evaluate`: parse, call one function, render."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apdm_cli.cli.console import display, print_json, stdout, warn
from apdm_cli.cli.options import Device, Dtype, Json, Root

if TYPE_CHECKING:
    from apdm_cli.scores import Score, ScoreRow, ScoresFile

DRAWING, SCORING = "Drawing", "Scoring"


def evaluate(
    run: Annotated[
        str | None, typer.Argument(help="Name of a run (default: the newest finished).")
    ] = None,
    metrics: Annotated[
        str,
        typer.Option(
            help="Names joined by commas; auto is every one that can be used.",
            rich_help_panel=SCORING,
        ),
    ] = "auto",
    weights: Annotated[
        list[str] | None,
        typer.Option(help="NAME=PATH of a metric's weights; repeat.", rich_help_panel=SCORING),
    ] = None,
    photos: Annotated[
        list[Path] | None,
        typer.Option(help="Where the photos are now, if they moved.", rich_help_panel=SCORING),
    ] = None,
    neighbours: Annotated[
        list[Path] | None,
        typer.Option(
            help="Photos of somebody else: can they still be taught? repeat.",
            rich_help_panel=SCORING,
        ),
    ] = None,
    captions: Annotated[
        Path | None,
        typer.Option(help="Text file of general captions.", rich_help_panel=SCORING),
    ] = None,
    plugin_file: Annotated[
        list[Path] | None,
        typer.Option(help="Load one Python file as a plugin.", rich_help_panel=SCORING),
    ] = None,
    prompts: Annotated[
        str,
        typer.Option(help="identity, object, diverse, or a text file.", rich_help_panel=DRAWING),
    ] = "identity",
    images: Annotated[
        int, typer.Option(help="Pictures per attacked model.", rich_help_panel=DRAWING, min=1)
    ] = 30,
    class_images: Annotated[
        int | None,
        typer.Option(
            help="Class pictures per model (pocket: 128, else as --images).",
            rich_help_panel=DRAWING,
            min=2,
        ),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            help="One of the model's: ddim, pndm, dpmsolver++ (pocket: ddim, else pndm).",
            rich_help_panel=DRAWING,
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Of the sampler (20).", rich_help_panel=DRAWING, min=1)
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(help="Guidance scale (pocket: 3, else 7.5).", rich_help_panel=DRAWING, min=0),
    ] = None,
    batch_size: Annotated[
        str, typer.Option(help="Pictures at once, or auto.", rich_help_panel=DRAWING)
    ] = "auto",
    seed: Annotated[int, typer.Option(help="Of the pictures.", rich_help_panel=DRAWING, min=0)] = 0,
    out: Root = Path("runs"),
    device: Device = "auto",
    dtype: Dtype = "auto",
    json: Json = False,
) -> None:
    """Draw pictures with every attacked model and score them.

    Writes evaluation/scores.json into the run. Pictures are kept and not drawn twice.
    """
    from apdm_cli.config import resolve
    from apdm_cli.devices import resolve_device, resolve_dtype
    from apdm_cli.evaluation.profiles import EvaluationSettings
    from apdm_cli.runs.run import Run
    from apdm_cli.user_config import load_config

    settings = resolve(
        EvaluationSettings,
        {
            "metrics": tuple(name.strip() for name in metrics.split(",") if name.strip()),
            "weights": {**load_config().values.weights, **_weights(weights or [])},
            "photos": tuple(photos or ()),
            "neighbours": tuple(neighbours or ()),
            "captions": captions,
            "prompts": prompts,
            "images": images,
            "class_images": class_images,
            "sampler": sampler,
            "steps": steps,
            "guidance": guidance,
            "batch_size": _batch_size(batch_size),
            "seed": seed,
        },
    )
    chosen = Run.open(out, run) if run else Run.newest_finished(out)
    target = resolve_device(device)

    from apdm_cli.cli.plugins import load_plugins
    from apdm_cli.evaluation.evaluate import evaluate_run
    from apdm_cli.scores import SCORES

    with display(say=warn) as shown:
        result = evaluate_run(
            out,
            chosen,
            settings,
            shown,
            device=target,
            dtype=resolve_dtype(dtype, target),
            plugins=load_plugins(plugin_file or ()),
        )
    if json:
        print_json(result.as_json())
        return
    _render(result)
    stdout.print(
        f"Scores: {chosen.evaluation / SCORES}", soft_wrap=True, highlight=False, style="dim"
    )
    where = "" if out == Path("runs") else f" --out {out}"
    stdout.print(
        f"Next: [bold]apdm compare {chosen.name}{where}[/]", soft_wrap=True, highlight=False
    )


def _weights(given: list[str]) -> dict[str, str]:
    from apdm_cli.errors import UsageError

    found = {}
    for entry in given:
        name, equals, path = entry.partition("=")
        if not (name and equals and path):
            raise UsageError(f"--weights {entry}: expected NAME=PATH", "Example: dino=~/dino")
        found[name] = path
    return found


def _batch_size(text: str) -> int | None:
    from apdm_cli.errors import UsageError

    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--batch-size {text}: expected a number from 1, or auto")
    return int(text)


def _render(result: ScoresFile) -> None:
    """Two tables: who is in the pictures, and what protection cost everybody else."""
    from rich.markup import escape

    sampler = result.sampler
    stdout.print(
        f"[bold]{escape(result.run)}[/], {sampler['sampler']}, {sampler['steps']} steps, "
        f"guidance {sampler['guidance']:g}; value ± half its 95 % interval",
        highlight=False,
    )
    rows = [row for row in result.rows if row.scores]
    utility = [row for row in rows if row.role == "utility"]
    _table("Pictures of the subject", [row for row in rows if row.role != "utility"])
    _table("Pictures of everything else", utility)
    for missing in result.unavailable:
        stdout.print(
            f"[dim]not scored: {missing.metric} ({escape(missing.reason)})[/]",
            highlight=False,
            soft_wrap=True,
        )


def _table(title: str, rows: Sequence[ScoreRow]) -> None:
    from rich.markup import escape
    from rich.table import Table

    if not rows:
        return
    metrics = list(dict.fromkeys(score.shown for row in rows for score in row.scores))
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1))
    for heading in (title.lower().removeprefix("pictures of "), "arm"):
        table.add_column(heading.capitalize())
    table.add_column("n", justify="right")
    for metric in metrics:
        table.add_column(escape(metric), justify="right", overflow="fold")
    for row in rows:
        cells = {score.shown: _shown(score) for score in row.scores}
        role = "" if row.role in ("attack", "utility") else f"{row.role}: "
        table.add_row(
            escape(role + row.label) + (f" [dim]seed {row.seed}[/]" if row.seed else ""),
            row.arm,
            _counts(row.scores),
            *(cells.get(metric, "") for metric in metrics),
        )
    stdout.print(table, highlight=False)


def _counts(scores: Sequence[Score]) -> str:
    """Scored pictures, and after a minus those that could not be; the worst of the metrics."""
    n = min(score.n for score in scores)
    skipped = max(score.skipped for score in scores)
    return f"{n}−{skipped}" if skipped else str(n)


def _shown(score: Score) -> str:
    if not score.has_value:
        return "none"
    number = f"{score.value:.2f}" if abs(score.value) >= 10 else f"{score.value:.3f}"
    if score.low is None or score.high is None:
        return number
    return f"{number} ± {(score.high - score.low) / 2:.2g}"
