"""What `apdm attack` answers: what became of every cell, and which attacks there are."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from apdm_cli.cli.console import print_json, stdout
from apdm_cli.cli.guide import say_answer, say_next
from apdm_cli.cli.progress import counted

if TYPE_CHECKING:
    from apdm_cli.extension.manager import PluginManager
    from apdm_cli.harness.execute import Outcome


def report(
    name: str, outcomes: Sequence[Outcome], *, json: bool, root: Path, photos: bool = False
) -> None:
    """Print it, for people or as JSON; raises `typer.Exit` where a cell failed.

    Args:
        photos: the run protects photos, and both arms are one model.
    """
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    if json:
        print_json({"run": name, "cells": [_row(o) for o in outcomes], "failed": len(failed)})
    else:
        done = sum(outcome.status == "done" for outcome in outcomes)
        cached = sum(outcome.status == "cached" for outcome in outcomes)
        counts = f"{done} done, {cached} finished before, {len(failed)} failed"
        say_answer(_summary(outcomes, len(failed), photos))
        stdout.print(f"[bold]{name}[/]: {counts}.", highlight=False)
        if len(failed) < len(outcomes):
            say_next(shlex.join(["apdm", "evaluate", name, *_drawing(outcomes)]), root)
    if failed:
        raise typer.Exit(1)


def _drawing(outcomes: Sequence[Outcome]) -> list[str]:
    """How pictures were asked for: drawn otherwise, those of early budgets could not be scored.

    The precision is named unless it is float32, and `--dtype auto` is that here.
    """
    from apdm_cli.devices import resolve_device, resolve_dtype
    from apdm_cli.report.command_words import evaluate_options
    from apdm_cli.runs.precision import name_of, spelled

    planned = outcomes[0].planned
    asked = dict(planned.job.asked.get("pictures") or {})
    if {planned.dtype, name_of(resolve_dtype("auto", resolve_device()))} != {"float32"}:
        asked["dtype"] = spelled(planned.dtype)
    return evaluate_options(asked)


def _summary(outcomes: Sequence[Outcome], failed: int, photos: bool) -> str:
    """How many attacks ran, on what, and that nothing is known of their success yet."""
    ran = [outcome.planned for outcome in outcomes if outcome.status != "failed"]
    attacks = counted(len({(one.job.name, one.job.variant) for one in ran}), "attack")
    whom = {one.whom for one in ran if one.whom}
    on_each = f" for {' and '.join(sorted(whom))}" if whom else ""
    words = {"protected": "perturbed"} if photos else {}
    arms = [words.get(one.arm, one.arm) for one in ran]
    models = f" and {'with' if photos else 'on'} the ".join(dict.fromkeys(arms))
    where = f"with the {models} photos" if photos else f"on the {models} model"
    if not ran:
        return "No attack came to its end."
    still = f"; {counted(failed, 'cell')} failed" if failed else ""
    return f"{attacks} ran {where}{on_each}{still}. Whether that gave a likeness is not scored yet."


def _row(outcome: Outcome) -> dict[str, Any]:
    planned = outcome.planned
    row: dict[str, Any] = {
        "cell": planned.cell.key,
        **({"subject": planned.whom} if planned.whom else {}),
        "attack": planned.job.name,
        "variant": planned.job.variant,
        "arm": planned.arm,
        "seed": planned.job.seed,
        "budgets": [stop["budget"] for stop in outcome.manifest.get("stops") or ()],
        "status": outcome.status,
        "path": planned.cell.path if outcome.status != "failed" else planned.cell.partial,
        "summary": outcome.manifest.get("summary"),
        "duration_seconds": outcome.manifest.get("duration_seconds"),
    }
    if outcome.status == "failed":
        row |= {"error": outcome.error, "hint": outcome.hint}
    return row


def list_attacks(manager: PluginManager, json: bool) -> None:
    """Print the attacks and the suites."""
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
