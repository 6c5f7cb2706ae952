"""`apdm protect`: parse, call one function, render."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apdm_cli.cli.console import Progress, print_json, progress, stderr, stdout, warn
from apdm_cli.cli.options import COMPUTE, OUTPUT, Device, Dtype, Json, Root

if TYPE_CHECKING:
    from apdm_cli.protection.l2p import OuterStep
    from apdm_cli.protection.request import ProtectRequest

SUBJECT, METHOD = "Subject and model", "Method"


def protect(
    photos: Annotated[
        list[Path], typer.Argument(help="Photos of the subject: folders or single files.")
    ],
    class_noun: Annotated[
        str,
        typer.Option(
            "--class", help="What the subject is: person, dog, ...", rich_help_panel=SUBJECT
        ),
    ],
    identifier: Annotated[
        str, typer.Option(help="Word an attacker would use.", rich_help_panel=SUBJECT)
    ] = "sks",
    model: Annotated[
        str,
        typer.Option(
            help="Folder, .safetensors file or hub id; pocket is built in.",
            rich_help_panel=SUBJECT,
        ),
    ] = "pocket",
    revision: Annotated[
        str | None, typer.Option(help="Hub revision.", rich_help_panel=SUBJECT)
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Run name [default: folder-class].", rich_help_panel=OUTPUT),
    ] = None,
    out: Root = Path("runs"),
    preset: Annotated[
        str | None,
        typer.Option(
            help="pocket, paper or published-code [default: by model].", rich_help_panel=METHOD
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file over the preset.", rich_help_panel=METHOD)
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value over both; repeat.", rich_help_panel=METHOD),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of every draw.", rich_help_panel=METHOD)] = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    memory: Annotated[
        str, typer.Option(help="normal, or low (slower).", rich_help_panel=COMPUTE)
    ] = "normal",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an unfinished run.", rich_help_panel=OUTPUT)
    ] = False,
    checkpoint_every: Annotated[
        int, typer.Option(help="Outer steps; 0: once a minute.", rich_help_panel=OUTPUT, min=0)
    ] = 0,
    save: Annotated[
        str, typer.Option(help="pipeline or unet-only.", rich_help_panel=OUTPUT)
    ] = "pipeline",
    json: Json = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan, write nothing.")
    ] = False,
) -> None:
    """Make a model refuse to learn the subject of some photos.

    Writes runs/NAME with the protected pipeline. The photos are never copied.
    """
    from apdm_cli.config import parse_assignments, read_toml, resolve
    from apdm_cli.devices import resolve_device, resolve_dtype
    from apdm_cli.errors import UsageError
    from apdm_cli.protection.settings import ProtectionSettings
    from apdm_cli.protection.settings import preset as read_preset

    _one_of("--memory", memory, ("normal", "low"))
    _one_of("--save", save, ("pipeline", "unet-only"))
    chosen = preset or ("pocket" if model == "pocket" else "paper")
    layers = [read_preset(chosen), read_toml(config) if config else {}]
    settings = resolve(ProtectionSettings, *layers, parse_assignments(assignments or []))
    if not photos:
        raise UsageError("no photos given")

    from apdm_cli.protection.request import ProtectRequest

    target = resolve_device(device)
    request = ProtectRequest(
        photos=tuple(photos),
        class_noun=class_noun,
        identifier=identifier,
        model=model,
        revision=revision,
        name=name,
        root=out,
        preset=chosen,
        settings=settings,
        seed=seed,
        device=target,
        dtype=resolve_dtype(dtype, target),
        low_memory=memory == "low",
        checkpoint_every=checkpoint_every,
        unet_only=save == "unet-only",
    )
    if dry_run:
        _plan(request, json)
    else:
        _protect(request, resume, json)


def _one_of(option: str, value: str, known: tuple[str, ...]) -> None:
    from apdm_cli.errors import UsageError

    if value not in known:
        raise UsageError(f"{option}: {value!r} is not one of {', '.join(known)}")


def _protect(request: ProtectRequest, resume: bool, json: bool) -> None:
    from apdm_cli.protection.run import protect as run_protect

    with progress(request.settings.steps_outer, "Protecting") as bar:
        run = run_protect(request, _Shown(bar), resume=resume)
    if json:
        print_json({**run.manifest, "path": run.path})
        return
    summary = run.manifest["summary"]
    stdout.print(
        f"[bold]{run.name}[/] protected in {run.manifest['duration_seconds']:.0f} s: the error on "
        f"the photos rose by {summary.get('negative_margin', 0):.2f} per element (r⁻), on class "
        f"pictures by {summary.get('positive_margin', 0):.2f} (r⁺).",
        highlight=False,
    )
    stdout.print(f"Model: {run.model}", soft_wrap=True, highlight=False)
    where = "" if request.root == Path("runs") else f" --out {request.root}"
    stdout.print(
        f"Next: [bold]apdm attack {run.name} --plugin dreambooth{where}[/]",
        soft_wrap=True,
        highlight=False,
    )


def _plan(request: ProtectRequest, json: bool) -> None:
    from apdm_cli.protection.plan import measure

    plan = measure(request)
    if json:
        print_json(plan)
        return
    from rich.table import Table

    stdout.print(f"[bold]Plan for {request.run_name}[/] (nothing is written)", highlight=False)
    table = Table(show_header=False, box=None, padding=(0, 2))
    for key, value in _flat(plan["configuration"]):
        table.add_row(key, str(value))
    stdout.print(table)
    for line in plan["lines"]:
        stdout.print(line, highlight=False, soft_wrap=True)


def _flat(table: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in table.items():
        rows += _flat(value, f"{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return rows


class _Shown:
    """A `Watcher` that draws the progress bar and prints what the user should know."""

    def __init__(self, bar: Progress) -> None:
        self.bar = bar

    def said(self, sentence: str) -> None:
        warn(sentence)

    def stage(self, description: str) -> None:
        self.bar.describe(description)
        if not stderr.is_terminal:
            stderr.print(description, highlight=False)

    def step(self, step: OuterStep) -> None:
        self.bar.advance(
            dpo=step.objective,
            preservation=step.preservation,
            **{"r+": step.positive_margin, "r-": step.negative_margin},
            drift=step.drift,
        )
