"""`apdm attack --dry-run`: the plan, for people and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from apdm_cli.cli.console import note, print_json, stdout
from apdm_cli.cli.progress import counted, format_duration

if TYPE_CHECKING:
    import torch

    from apdm_cli.harness.arms import Arms
    from apdm_cli.harness.forecast import CellForecast

STATES = {
    "finished": "finished before",
    "interrupted": "goes on from its checkpoint",
    "failed": "failed before, is tried again",
    "running": "another process works on it",
    "new": "to run",
}
AGAIN = "because of --rerun, or for budgets or pictures on the way that are not there yet"


def show_plan(
    found: Sequence[CellForecast],
    arms: Arms,
    devices: Sequence[torch.device],
    said: Sequence[str],
    *,
    json: bool,
) -> None:
    """Print what an attack of the cells `found` would do, on the workers' `devices`."""
    dtype = str(arms.dtype).removeprefix("torch.")
    running = [cell for cell in found if cell.runs]
    measured = [cell.seconds for cell in running if cell.seconds is not None]
    lines = _lines(found, arms, list(map(str, devices)), dtype)
    if json:
        print_json(
            {
                "name": arms.run.name,
                "devices": list(map(str, devices)),
                "dtype": dtype,
                "cells": [cell.as_json() for cell in found],
                "to_run": len(running),
                "steps": sum(cell.steps for cell in running),
                "pictures_to_draw": sum(cell.pictures for cell in running),
                "class_pictures_to_draw": _class_pictures(running, arms),
                # Only a whole sum is one.
                "estimated_seconds": sum(measured) if len(measured) == len(running) else None,
                "said": said,
                "lines": lines,
            }
        )
        return
    for sentence in said:
        note(sentence)
    stdout.print(f"[bold]Plan for {arms.run.name}[/] (nothing is written)", highlight=False)
    _table(found)
    for line in lines:
        stdout.print(line, highlight=False, markup=False)


def _lines(
    found: Sequence[CellForecast], arms: Arms, devices: Sequence[str], dtype: str
) -> list[str]:
    running = [cell for cell in found if cell.runs]
    there = len(found) - len(running)
    shared = sum(cell.shared for cell in running)
    control = f"; {shared} of them on the original, shared by every run on it" if shared else ""
    lines = [
        f"{counted(len(found), 'cell')}: {there} finished before, {len(running)} to run{control}"
    ]
    if again := sum(cell.state == "finished" for cell in running):
        lines.append(f"{counted(again, 'finished cell')} would be run again: {AGAIN}")
    if not running:
        return [*lines, "Nothing is left to do; --rerun would run them all again"]
    places = ", ".join(dict.fromkeys(devices))
    by = f" by {len(devices)} workers" if len(devices) > 1 else ""
    pictures = sum(cell.pictures for cell in running)
    drawn = f" and {counted(pictures, 'picture')} on the way" if pictures else ""
    steps = sum(cell.steps for cell in running)
    lines.append(f"At most {counted(steps, 'training step')}{drawn}, on {places} ({dtype}){by}")
    if class_pictures := _class_pictures(running, arms):
        lines.append(
            f"At most {counted(class_pictures, 'class picture')} first (those in the cache cost "
            "nothing)"
        )
    return [*lines, _time(running, len(devices))]


def _time(running: Sequence[CellForecast], workers: int) -> str:
    """How long, as far as that was measured: an unknown part is called unknown."""
    measured = [cell.seconds for cell in running if cell.seconds is not None]
    if not measured:
        return (
            "Time: not known, because no attack like these has finished on this device yet; ask "
            "again after the first"
        )
    of = "" if len(measured) == len(running) else f" for {len(measured)} of these cells"
    others = "; nothing like the others has finished yet" if of else ""
    share = f", shared by {workers} workers" if workers > 1 else ""
    return (
        f"Time: at most {format_duration(sum(measured))}{of}{share}, at the pace of finished "
        f"attacks on this device, without class pictures and loading{others}"
    )


def _class_pictures(running: Sequence[CellForecast], arms: Arms) -> int:
    """Those of one model, seed and class are drawn once, as many as any attack wants."""
    most: dict[tuple[str, int, str], int] = {}
    for cell in running:
        job = cell.planned.job
        key = (arms.weights_of(cell.planned.arm), job.seed, job.subject.class_noun)
        most[key] = max(most.get(key, 0), cell.class_pictures)
    return sum(most.values())


def _table(found: Sequence[CellForecast]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, padding=(0, 1), pad_edge=False)
    if several := any(cell.planned.whom for cell in found):
        table.add_column("Subject")
    table.add_column("Attack")
    table.add_column("Model", no_wrap=True)
    if seeds := len({cell.planned.job.seed for cell in found}) > 1:
        table.add_column("Seed", justify="right", no_wrap=True)
    table.add_column("Budgets")
    table.add_column("Steps", justify="right", no_wrap=True)
    table.add_column("State")
    for cell in found:
        job = cell.planned.job
        variant = f" ({job.variant})" if job.variant else ""
        budgets = ", ".join(f"{budget * job.scale:g}" for budget in job.budgets)
        state = STATES[cell.state]
        if cell.runs and cell.state == "finished":
            state = "to run again"
        row: list[Any] = [escape(cell.planned.whom)] if several else []
        row += [escape(job.name + variant), cell.planned.arm]
        row += [str(job.seed)] if seeds else []
        row += [budgets, str(cell.steps) if cell.runs else "", state]
        table.add_row(*row)
    stdout.print(table, highlight=False)
