"""`apdm compare`: parse, call one function, render."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apdm_cli.cli.console import print_answer, stderr, stdout, warn
from apdm_cli.cli.going_on import keeps
from apdm_cli.cli.guide import say_answer
from apdm_cli.cli.options import OUTPUT, Json, Root, SubjectName, Verbose

if TYPE_CHECKING:
    from apdm_cli.report.publish import Published
    from apdm_cli.report.schema import Comparison

NOT_HELD = 3  # exit code when a --require does not hold


def compare(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN",
            help="Names or folders of runs, one or several; without any, the run that was "
            "evaluated last.",
        ),
    ] = None,
    subject: SubjectName = None,
    require: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION",
            help="What must hold, such as work>=3 (three times the steps) or worst.dino<=0.3; "
            "otherwise the exit code is 3. May be given several times.",
        ),
    ] = None,
    likeness: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="The similarity at which an attack counts as successful. Without it, halfway from "
            "floor to ceiling of the metric that leads the verdict.",
        ),
    ] = None,
    include_photos: Annotated[
        bool,
        typer.Option(
            "--include-photos",
            help="Show the subject's photos in the contact sheet and the report.",
        ),
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write the report to this file as well.", rich_help_panel=OUTPUT
        ),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write the table to this file as CSV.", rich_help_panel=OUTPUT
        ),
    ] = None,
    markdown: Annotated[
        bool,
        typer.Option("--markdown", help="Print the table as Markdown.", rich_help_panel=OUTPUT),
    ] = False,
    open_report: Annotated[
        bool,
        typer.Option("--open", help="Open the report in the browser.", rich_help_panel=OUTPUT),
    ] = False,
    verbose: Verbose = False,
    json: Json = False,
    out: Root = Path("runs"),
) -> None:
    """Say how well the protection holds: an answer, a report, an exit code for CI.

    Writes comparison.json, contact_sheet.png and report.html into the run, and says where they
    are. Several runs are put side by side in one report.

    The exit code is 3 when something that --require asks for does not hold or was not measured.
    """
    from apdm_cli.errors import UsageError
    from apdm_cli.report.requirement import parse

    if json and markdown:
        raise UsageError("--json and --markdown both want stdout", "Give one of them.")
    if json and open_report:
        raise UsageError("--json is for programs, and --open for people", "Give one of them.")
    if likeness is not None and not math.isfinite(likeness):
        raise UsageError(f"--likeness {likeness} is no similarity", "Give a number, such as 0.5.")
    requirements = [parse(text) for text in require or []]
    _check_files(html, csv)

    from apdm_cli.report.evaluated import are_subjects, open_runs

    keeps("What an earlier comparison wrote is still there.")
    evaluated = open_runs(out, runs or [], subject)

    # matplotlib takes its time: a run that is not there is said before.
    from apdm_cli.report.assemble import compare_runs, weakest_first
    from apdm_cli.report.publish import folder_of, publish
    from apdm_cli.runs.atomic import require_writable

    require_writable(folder_of(evaluated) / "comparison.json", parents=True)
    comparison = compare_runs(evaluated, requirements, likeness)
    comparison, evaluated = weakest_first(comparison, evaluated)
    published = publish(comparison, evaluated, include_photos=include_photos)
    _copies(comparison, published, html, csv)
    for warning in comparison.warnings:
        warn(warning)
    if include_photos and not all(_invented(run.run.manifest) for run in evaluated):
        warn(
            "The report and the contact sheet contain photos of the subject.",
            "Mind whom you give them to; without --include-photos they are left out.",
        )
    if json or markdown:
        _print_plain(comparison, markdown)
    else:
        _print_tables(comparison, published, verbose, subjects=are_subjects(evaluated))
    if open_report:
        _open(published.html)
    if not comparison.holds:
        raise typer.Exit(NOT_HELD)


def _invented(manifest: dict[str, Any]) -> bool:
    """Whether the run's photos are packaged ones, of somebody who does not exist."""
    from apdm_cli.pocket.samples import SUBJECTS

    sources = ((manifest.get("subject") or {}).get("photos") or {}).get("sources") or []
    return bool(sources) and all(
        Path(source).resolve().is_relative_to(SUBJECTS.resolve()) for source in sources
    )


def _check_files(html: Path | None, csv: Path | None) -> None:
    """Whether the files that are wanted besides can be written, before there is anything to write.

    Their folders are not made: a path with a slip in it is said, and not a new folder.
    """
    from apdm_cli.errors import UsageError
    from apdm_cli.runs.atomic import require_writable

    for file in (html, csv):
        if file is not None:
            require_writable(file)
    if html is not None and csv is not None and html.resolve() == csv.resolve():
        raise UsageError(f"--html and --csv both name {html}", "Give each a file of its own.")


def _copies(
    comparison: Comparison, published: Published, html: Path | None, csv: Path | None
) -> None:
    from apdm_cli.report.table import comma_separated
    from apdm_cli.runs.atomic import write_bytes_atomic

    if html is not None:
        write_bytes_atomic(html, published.html.read_bytes())
    if csv is not None:
        write_bytes_atomic(csv, comma_separated(comparison).encode("utf-8"))


def _open(report: Path) -> None:
    """Show the report in the user's browser, or say why not: that is no error."""
    import webbrowser

    problem = ""
    if os.environ.get("CI", "") not in ("", "0", "false"):
        problem = "this runs in CI"
    else:
        try:
            if not webbrowser.get().open(report.resolve().as_uri()):
                problem = "the browser did not take it"
        except webbrowser.Error:
            problem = "no browser was found here"
    if problem:
        stderr.print(
            f"The report was not opened, because {problem}. It is in {report}.",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def _print_plain(comparison: Comparison, as_markdown: bool) -> None:
    """Only JSON or Markdown on stdout; what does not hold on stderr."""
    from apdm_cli.report.publish import json_text
    from apdm_cli.report.table import markdown

    print_answer(markdown(comparison) if as_markdown else json_text(comparison))
    for one in comparison.requirements:
        if not one.held:
            stderr.print(
                f"✗ {one.text} does not hold: {one.says}", markup=False, soft_wrap=True, style="red"
            )


def _print_tables(
    comparison: Comparison, published: Published, verbose: bool, *, subjects: bool
) -> None:
    """The answer, what was required, the numbers behind it, and where to look.

    Args:
        subjects: the runs are several subjects of one; the weakest is named as that.
    """
    from apdm_cli.report.table import rich_tables
    from apdm_cli.report.verdict import followed, smallest

    several = len(comparison.runs)
    for place, run in enumerate(comparison.runs):
        weakest = subjects and place == 0 and smallest(followed(run.work)) is not None
        least = f", with the smallest work factor of {several} subjects" if weakest else ""
        name = f"{run.name}{least}: " if several > 1 else ""
        say_answer(f"{name}{run.answer}")
    _print_required(comparison)
    for run in comparison.runs:
        stdout.print(f"\n{run.verdict}", markup=False, highlight=False)
    stdout.print(rich_tables(comparison, stdout.width, verbose=verbose))
    stdout.print()
    for problem in (problem for run in comparison.runs for problem in run.problems):
        stdout.print(f"- {problem.what}: {problem.why}", markup=False, highlight=False, style="dim")
    for what, path in (("Report", published.html), ("Pictures", published.contact_sheet)):
        stdout.print(f"{what}: {path}", markup=False, highlight=False, soft_wrap=True)


def _print_required(comparison: Comparison) -> None:
    for one in comparison.requirements:
        mark, verb, style = ("✓", "holds", "green") if one.held else ("✗", "does not hold", "red")
        run_name = f"{one.run}: " if len(comparison.runs) > 1 else ""
        stdout.print(
            f"{mark} {run_name}{one.text} {verb}: {one.says}",
            markup=False,
            highlight=False,
            soft_wrap=True,
            style=style,
        )
