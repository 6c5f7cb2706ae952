"""`apdm clean`: say what would go and how much room it takes, ask, and remove it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apdm_cli.cli.console import print_json, stderr, stdout
from apdm_cli.cli.going_on import keeps
from apdm_cli.cli.options import OUTPUT, Json, Root

if TYPE_CHECKING:
    from apdm_cli.runs.cleaning import Plan

PLURALS = {
    "run": "runs",
    "attacked model": "attacked models",
    "pictures": "folders of pictures",
    "attack on the original": "attacks on the original that no other run needs",
}
MOST_SHOWN = 12  # lines of one kind before the rest is only counted


def clean(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN", help="The runs to clean, by name; apdm runs lists them."),
    ] = None,
    artifacts: Annotated[
        bool,
        typer.Option(
            "--artifacts",
            help="Remove only the models that attacks made. Scores and pictures stay.",
        ),
    ] = False,
    cache: Annotated[
        bool,
        typer.Option(
            "--cache",
            help="Remove only pictures, which can be drawn again. Without a RUN, these are the "
            "class pictures and latents that all runs share.",
        ),
    ] = False,
    orphans: Annotated[
        bool,
        typer.Option(
            "--orphans",
            help="Remove only attacks on originals that no run needs any more. Takes no RUN.",
        ),
    ] = False,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes", "-y", help="Do not ask before removing, for scripts.", rich_help_panel=OUTPUT
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Show what would be removed, and remove nothing.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    out: Root = Path("runs"),
    json: Json = False,
) -> None:
    """Free disk space: remove whole runs, or only their attacked models or pictures.

    First says what would go and how much room it takes, then asks. What another process works on
    is never removed, and neither are photos: a run holds none.
    """
    from apdm_cli.errors import UsageError
    from apdm_cli.runs.cleaning import plan, remove

    keeps("Nothing was removed.")
    planned = plan(out, runs or [], artifacts=artifacts, cache=cache, orphans=orphans)
    if json and not (yes or dry_run):
        raise UsageError(
            "--json cannot ask before it removes.", "Add --dry-run to look, or --yes to remove."
        )
    if not json:
        _show(planned)
    freed = 0
    if planned.removable and not dry_run:
        if not yes:
            _ask()
        keeps("What is left can still be removed.")
        freed = remove(planned)
    if json:
        print_json({**_as_json(planned), "freed_bytes": freed})
    elif freed:
        from apdm_cli.runs.disk import format_bytes

        stdout.print(f"Freed {format_bytes(freed)}.", highlight=False)


def _can_ask() -> bool:
    return sys.stdin.isatty()


def _ask() -> None:
    from apdm_cli.errors import UsageError

    if not _can_ask():
        raise UsageError("Nothing was removed.", "Nobody can be asked here: add --yes.")
    try:
        agreed = typer.confirm("Remove this?", default=False, err=True)
    except typer.Abort:  # Ctrl-C, or the end of the input
        raise KeyboardInterrupt from None
    if not agreed:
        stderr.print("Nothing was removed.")
        raise typer.Exit(1)


def _show(planned: Plan) -> None:
    from apdm_cli.runs.disk import format_bytes

    if not planned.removable:
        stdout.print("There is nothing to remove.", highlight=False)
    groups: dict[str, list[tuple[str, int]]] = {}
    for one in planned.removable:
        line = str(one.path.relative_to(planned.root))
        groups.setdefault(one.kind, []).append((line, one.bytes))
    for kind, lines in groups.items():
        size = format_bytes(sum(count for _, count in lines))
        heading = kind[0].upper() + kind[1:]
        if len(lines) > 1:
            heading = f"{len(lines)} {PLURALS.get(kind, kind)}"
        stdout.print(f"[bold]{heading}[/]: {size}", highlight=False)
        for line, count in sorted(lines)[:MOST_SHOWN]:
            stdout.print(
                f"  {line}  {format_bytes(count)}", highlight=False, markup=False, soft_wrap=True
            )
        if len(lines) > MOST_SHOWN:
            stdout.print(f"  and {len(lines) - MOST_SHOWN} more", highlight=False)
    for sentence in planned.kept:
        stdout.print(f"Kept: {sentence}.", highlight=False, markup=False, soft_wrap=True)
    if planned.removable:
        stdout.print(
            f"In all {format_bytes(planned.bytes)} in {planned.root}.",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        for sentence in _consequences(planned):
            stdout.print(sentence, style="dim", highlight=False)


def _consequences(planned: Plan) -> list[str]:
    """What the user can no longer do afterwards."""
    kinds = {one.kind for one in planned.removable}
    said = []
    if "attacked model" in kinds:
        said.append(
            "Scores and reports stay. New pictures of these attacks need: apdm attack --rerun"
        )
    if "pictures" in kinds:
        said.append("Scores stay. Before the next compare: apdm evaluate draws the pictures again.")
    if "shared class pictures and latents" in kinds:
        said.append("They are drawn again when a command needs them.")
    return said


def _as_json(planned: Plan) -> dict[str, object]:
    return {
        "root": planned.root,
        "removable": [
            {"kind": one.kind, "path": one.path, "run": one.run or None, "bytes": one.bytes}
            for one in planned.removable
        ],
        "bytes": planned.bytes,
        "kept": list(planned.kept),
    }
