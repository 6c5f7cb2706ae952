"""`apdm attack`: parse, call one function, render."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apdm_cli.cli.console import print_json, stderr, stdout, warn
from apdm_cli.cli.options import COMPUTE, OUTPUT, Device, Dtype, Json, Root

if TYPE_CHECKING:
    from apdm_cli.extension.manager import PluginManager
    from apdm_cli.harness.execute import Outcome

ATTACKS, ATTACKER, METHOD = "Attacks", "The attacker", "Method"


def attack(
    run: Annotated[
        str | None, typer.Argument(help="Protect run; without it the newest finished.")
    ] = None,
    plugin: Annotated[
        list[str] | None,
        typer.Option("--plugin", help="Attack by name; repeat.", rich_help_panel=ATTACKS),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            help="quick (the default), standard, full or a TOML file.", rich_help_panel=ATTACKS
        ),
    ] = None,
    list_them: Annotated[
        bool, typer.Option("--list", help="List attacks and suites.", rich_help_panel=ATTACKS)
    ] = False,
    plugin_file: Annotated[
        list[Path] | None,
        typer.Option(help="Load one Python file as a plugin.", rich_help_panel=ATTACKS),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Attack a model protected elsewhere.", rich_help_panel=ATTACKS),
    ] = None,
    original: Annotated[
        str | None,
        typer.Option(help="What --model was made from.", rich_help_panel=ATTACKS),
    ] = None,
    photos: Annotated[
        list[Path] | None,
        typer.Option(help="Other photos than the run's; repeat.", rich_help_panel=ATTACKER),
    ] = None,
    identifier: Annotated[
        str | None, typer.Option(help="Another word.", rich_help_panel=ATTACKER)
    ] = None,
    subject_class: Annotated[
        str | None, typer.Option(help="Another class noun.", rich_help_panel=ATTACKER)
    ] = None,
    transform: Annotated[
        list[str] | None,
        typer.Option(help="flip, blur, crop, jpeg, noise; repeat.", rich_help_panel=ATTACKER),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML, one table per attack.", rich_help_panel=METHOD)
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="attack.key=value; repeat.", rich_help_panel=METHOD),
    ] = None,
    seed: Annotated[int, typer.Option(help="The first seed.", rich_help_panel=METHOD)] = 0,
    seeds: Annotated[int, typer.Option(help="How many seeds.", rich_help_panel=METHOD, min=1)] = 1,
    no_control: Annotated[
        bool,
        typer.Option("--no-control", help="Leave the original out.", rich_help_panel=METHOD),
    ] = False,
    rerun: Annotated[
        bool, typer.Option("--rerun", help="Run finished cells again.", rich_help_panel=OUTPUT)
    ] = False,
    out: Root = Path("runs"),
    json: Json = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    checkpoint_every: Annotated[
        int, typer.Option(help="Steps; 0: once a minute.", rich_help_panel=COMPUTE, min=0)
    ] = 0,
) -> None:
    """Personalize the original and the protected model the same way.

    Every attack runs on both: without the original a low score proves nothing.
    """
    from apdm_cli.cli.plugins import load_plugins

    manager = load_plugins(plugin_file or ())
    if list_them:
        _list(manager, json)
        return
    from apdm_cli.config import parse_assignments, read_toml
    from apdm_cli.devices import resolve_device, resolve_dtype
    from apdm_cli.extension.manager import families, metrics, registered_attacks
    from apdm_cli.harness.execute import Execution
    from apdm_cli.harness.judge import make_judge
    from apdm_cli.harness.request import AttackRequest

    target = resolve_device(device)
    request = AttackRequest(
        root=out,
        device=target,
        dtype=resolve_dtype(dtype, target),
        run=run,
        model=model,
        original=original,
        plugins=tuple(plugin or ()),
        suite=suite,
        photos=tuple(photos or ()),
        identifier=identifier,
        class_noun=subject_class,
        transforms=tuple(transform or ()),
        seeds=tuple(range(seed, seed + seeds)),
        settings=(read_toml(config) if config else {}, parse_assignments(assignments or [])),
        control=not no_control,
        known=families(manager),
    )
    arms, cells, said = request.plan(registered_attacks(manager))
    for sentence in said:
        warn(sentence)

    from apdm_cli.cli.attack_display import open_display

    with open_display(live=stdout.is_terminal and stderr.is_terminal) as display:
        outcomes = Execution(
            arms,
            out,
            display,
            judge=make_judge(metrics(manager)),
            rerun=rerun,
            checkpoint_every=checkpoint_every,
        ).run(cells)
    _report(arms.run.name, outcomes, json=json, root=out)


def _report(name: str, outcomes: Sequence[Outcome], *, json: bool, root: Path) -> None:
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    if json:
        print_json({"run": name, "cells": [_row(o) for o in outcomes], "failed": len(failed)})
    else:
        done = sum(outcome.status == "done" for outcome in outcomes)
        cached = sum(outcome.status == "cached" for outcome in outcomes)
        counts = f"{done} done, {cached} finished before, {len(failed)} failed"
        stdout.print(f"[bold]{name}[/]: {counts}.", highlight=False)
        where = "" if root == Path("runs") else f" --out {root}"
        if len(failed) < len(outcomes):
            stdout.print(f"Next: [bold]apdm evaluate {name}{where}[/]", highlight=False)
    if failed:
        raise typer.Exit(1)


def _row(outcome: Outcome) -> dict[str, Any]:
    planned = outcome.planned
    row: dict[str, Any] = {
        "cell": planned.cell.key,
        "attack": planned.job.name,
        "variant": planned.job.variant,
        "arm": planned.arm,
        "seed": planned.job.seed,
        "status": outcome.status,
        "path": planned.cell.path if outcome.status != "failed" else planned.cell.partial,
        "summary": outcome.manifest.get("summary"),
        "duration_seconds": outcome.manifest.get("duration_seconds"),
    }
    if outcome.status == "failed":
        row |= {"error": outcome.error, "hint": outcome.hint}
    return row


def _list(manager: PluginManager, json: bool) -> None:
    from rich.table import Table

    from apdm_cli.extension.manager import attacks
    from apdm_cli.harness.suites import load_suite, suite_names

    found = attacks(manager)
    suites = {name: load_suite(name) for name in suite_names()}
    if json:
        print_json(
            {
                "attacks": {name: item.summary for name, item in found.items()},
                "suites": {name: [e.name for e in s.attack] for name, s in suites.items()},
            }
        )
        return
    table = Table(show_header=False, box=None, padding=(0, 2))
    for name in sorted(found):
        table.add_row(f"[bold]{name}[/]", found[name].summary)
    stdout.print(table)
    for name, content in suites.items():
        runs = ", ".join(dict.fromkeys(entry.name for entry in content.attack))
        stdout.print(f"suite [bold]{name}[/] ({content.description}): {runs}", highlight=False)
