"""What `apdm protect --dry-run` shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from apdm_cli.cli.console import note, print_json, stdout

if TYPE_CHECKING:
    from apdm_cli.protection.request import ProtectRequest


def show_plan(request: ProtectRequest, json: bool) -> None:
    """What a run would do and take."""
    from apdm_cli.protection.plan import measure

    plan = measure(request)
    if json:
        print_json(plan)
        return
    stdout.print(f"[bold]Plan for {request.run_name}[/] (nothing is written)", highlight=False)
    show_settings(request.preset, plan["configuration"], json=False)
    for sentence in plan["said"]:
        note(sentence)
    for line in plan["lines"]:
        stdout.print(line, highlight=False, markup=False)


def show_settings(preset: str, configuration: dict[str, Any], json: bool) -> None:
    """Every setting of a protection, with the name of its preset."""
    if json:
        print_json({"preset": preset, "configuration": configuration})
        return
    from rich.table import Table

    table = Table(show_header=False, box=None, padding=(0, 2))
    for key, value in [("preset", preset), *_flat(configuration)]:
        table.add_row(key, str(value))
    stdout.print(table)


def _flat(table: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in table.items():
        rows += _flat(value, f"{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return rows
