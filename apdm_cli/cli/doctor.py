"""`apdm doctor`: run every check, say what wants mending, exit 0 or 1."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apdm_cli.cli.console import print_json, stdout
from apdm_cli.cli.options import OUTPUT, Json, Root

if TYPE_CHECKING:
    from apdm_cli.doctor.findings import Check, Finding

MARKS = {"ok": "[green]✓[/]", "note": "[yellow]•[/]", "problem": "[red]✗[/]"}


def doctor(
    fix: Annotated[
        bool,
        typer.Option(
            "--fix",
            help="Remove what killed processes left behind and nobody can use any more.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    out: Root = Path("runs"),
    json: Json = False,
) -> None:
    """Check this installation and machine, and say what to mend.

    Looks at Python, packages, device, memory, disks, network, plugins, metrics and runs. Marks
    what is well (✓), what is worth knowing (•) and what wants mending (✗). A machine without
    a graphics card or without a network is normal. Nothing is downloaded, and only --fix removes
    anything.

    The exit code is 1 when something wants mending.
    """
    from apdm_cli import __version__
    from apdm_cli.doctor.findings import run_checks

    findings = run_checks(checks(out, fix=fix))
    if json:
        shown = list(findings)
    else:
        stdout.print(f"[bold]apdm {__version__}[/]", highlight=False)
        shown = list(_shown(findings))
    problems = sum(one.state == "problem" for one in shown)
    if json:
        print_json({"apdm": __version__, "problems": problems, "findings": shown})
    else:
        count = "1 thing wants" if problems == 1 else f"{problems} things want"
        stdout.print(f"\n{count} mending." if problems else "\nNothing wants mending.")
    if problems:
        raise typer.Exit(1)


def checks(root: Path, *, fix: bool) -> list[tuple[str, Check]]:
    """Every check with its area, the quick ones first."""
    from apdm_cli.doctor import installed, leftovers, machine, network, packages
    from apdm_cli.folders import cache_folder

    caches = {"cache of apdm": cache_folder(), "cache of the hub": _hub_cache()}
    return [
        ("python", packages.python),
        ("packages", packages.packages),
        ("settings", user_config),
        ("memory", machine.memory),
        ("disk", lambda: machine.disks(root, caches)),
        ("runs", lambda: leftovers.leftovers(root, fix=fix)),
        ("network", network.hub),
        ("device", machine.device),
        ("precision", machine.precisions),
        ("plugins", installed.plugins),
        ("metrics", lambda: installed.metrics(_weights())),
    ]


def user_config() -> Iterator[Finding]:
    """What apdm.toml says; a broken one is a problem with the file's name in it."""
    from apdm_cli.doctor.findings import ok
    from apdm_cli.user_config import config_files, load_config

    config = load_config()
    for file in config_files():
        keys = ", ".join(key for key, origin in config.origin.items() if origin == file)
        yield ok("settings", f"{file} sets {keys or 'nothing'}")


def _weights() -> dict[str, str]:
    from apdm_cli.errors import ApdmError
    from apdm_cli.user_config import load_config

    try:
        return load_config().values.weights
    except ApdmError:
        return {}


def _hub_cache() -> Path:
    import os

    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or home / "hub")


def _shown(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Print each finding as it is found: the slow checks come last."""
    from rich.markup import escape
    from rich.table import Table

    area = ""
    for one in findings:
        table = Table.grid(padding=(0, 1, 0, 0))
        table.add_column(width=1)
        table.add_column(width=9)
        table.add_column(overflow="fold")
        heading, area = (one.area if one.area != area else ""), one.area
        advice = f"\n[dim]{escape(one.advice)}[/]" if one.advice else ""
        table.add_row(MARKS[one.state], heading, escape(one.says) + advice)
        stdout.print(table, highlight=False)
        yield one
