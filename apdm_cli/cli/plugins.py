"""`apdm plugins`, and how every command loads plugins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apdm_cli.cli.console import print_json, stdout, warn
from apdm_cli.cli.options import Json, PluginFile

if TYPE_CHECKING:
    from apdm_cli.extension.manager import PluginManager, Registered


def load_plugins(plugin_files: Sequence[Path] = ()) -> PluginManager:
    """Every plugin; a warning for each that is broken. ApdmError when two share a name."""
    from apdm_cli.extension.manager import (
        build_plugin_manager,
        registered_attacks,
        registered_families,
        registered_metrics,
        registered_protections,
    )
    from apdm_cli.extension.names import names_of, remember

    manager = build_plugin_manager(plugin_files)
    registered_attacks(manager)
    registered_metrics(manager)
    registered_families(manager)
    registered_protections(manager)
    if not plugin_files:  # what a single file brings is not there the next time
        remember(names_of(manager))
    for broken in manager.broken.values():
        origin = broken.origin
        warn(
            f"Plugin {origin.plugin} ({origin.distribution} {origin.version}) is broken and "
            f"was left out: {broken.error}"
        )
    return manager


ROOM_FOR_ORIGIN = 76  # columns of a terminal


def plugins(
    json: Json = False,
    options: Annotated[
        bool, typer.Option("--options", help="Show the options of attacks and protections.")
    ] = False,
    plugin_file: PluginFile = None,
) -> None:
    """List the installed protections, attacks, metrics and families of models."""
    from apdm_cli.extension.manager import (
        registered_attacks,
        registered_families,
        registered_metrics,
        registered_protections,
    )

    manager = load_plugins(plugin_file or ())
    rows = [
        *(_row("attack", found) for found in registered_attacks(manager).values()),
        *(_row("metric", found) for found in registered_metrics(manager).values()),
        *(_row("family", found) for found in registered_families(manager).values()),
        *(_row("protection", found) for found in registered_protections(manager).values()),
    ]
    broken = [
        {
            "plugin": item.origin.plugin,
            "distribution": item.origin.distribution,
            "version": item.origin.version,
            "error": item.error,
        }
        for item in manager.broken.values()
    ]
    if json:
        print_json({"plugins": rows, "broken": broken, "disabled": manager.disabled})
        return
    _show(rows, options)
    for name in manager.disabled:
        stdout.print(f"[dim]{name} is switched off by APDM_DISABLE_PLUGINS[/]", highlight=False)


def _row(kind: str, found: Registered[Any]) -> dict[str, Any]:
    from apdm_cli.config import describe

    row: dict[str, Any] = {
        "name": found.item.name,
        "kind": kind,
        "summary": found.item.summary,
        "plugin": found.origin.plugin,
        "distribution": found.origin.distribution,
        "version": found.origin.version,
    }
    if kind == "attack":
        row["options"] = [setting._asdict() for setting in describe(found.item.Config)]
        row["profiles"] = {name: dict(table) for name, table in found.item.profiles.items()}
    elif kind == "metric":
        row["better"] = found.item.better
    elif kind == "protection":
        row["options"] = [setting._asdict() for setting in describe(found.item.Config)]
        row["presets"] = list(found.item.presets)
    else:
        row["samplers"] = list(found.item.samplers)
    return row


def _show(rows: list[dict[str, Any]], options: bool) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    wide = stdout.width >= ROOM_FOR_ORIGIN
    for column in ("name", "kind", *(("version", "from") if wide else ()), "what it does"):
        table.add_column(column, no_wrap=column in ("name", "kind"))
    for row in sorted(rows, key=lambda row: (row["kind"], row["name"])):
        origin = (row["version"], row["distribution"]) if wide else ()
        table.add_row(f"[bold]{row['name']}[/]", row["kind"], *origin, escape(row["summary"]))
    stdout.print(table)
    if not options:
        stdout.print(
            "[dim]Options of attacks and protections: apdm plugins --options[/]", highlight=False
        )
        return
    for row in (row for row in rows if "options" in row):
        settings = Table(title=row["name"], title_justify="left", box=None, padding=(0, 2, 0, 0))
        for column in ("option", "default", "meaning"):
            settings.add_column(column)
        for option in row["options"]:
            # A protection's are set one run at a time, without its name.
            key = option["key"]
            key = f"{row['name']}.{key}" if row["kind"] == "attack" else key
            settings.add_row(key, escape(str(option["default"])), escape(option["description"]))
        stdout.print(settings)
