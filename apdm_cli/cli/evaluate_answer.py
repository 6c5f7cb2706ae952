"""What `apdm evaluate` answers: the verdict, and a table of scores for whom the pictures show."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from apdm_cli.cli.console import stdout
from apdm_cli.cli.guide import say_answer, say_next

if TYPE_CHECKING:
    from apdm_cli.runs.run import Run
    from apdm_cli.scores import Score, ScoreRow, ScoresFile


def report(result: ScoresFile, run: Run, verbose: bool, *, several: bool) -> None:
    """Print what came of one subject: its answer, its tables, and where the scores lie.

    Args:
        several: others come beside it, so that its name stands before the answer.
    """
    from apdm_cli.report.arms import protects
    from apdm_cli.report.assemble import judge
    from apdm_cli.report.evaluated import EvaluatedRun
    from apdm_cli.report.variants import with_named_variants
    from apdm_cli.scores import SCORES

    shown = with_named_variants(EvaluatedRun(run, result, {}, ())).scores
    judged = judge(shown, protected=protects(run.manifest))
    _render(shown, judged.answer, verbose, f"{result.run}: " if several else "")
    where = run.evaluation / SCORES
    stdout.print(f"Scores: {where}", soft_wrap=True, highlight=False, style="dim")


def say_what_is_next(run: Run, results: Sequence[ScoresFile], root: Path) -> None:
    """Print the command that comes next: an attack, where a subject was not attacked yet."""
    if all(any(row.role == "attack" for row in result.rows) for result in results):
        say_next(f"apdm compare {shlex.quote(run.name)}", root)
    else:
        say_next(f"apdm attack {shlex.quote(run.name)} --plugin dreambooth", root)


def _render(result: ScoresFile, answer: str, verbose: bool, whose: str) -> None:
    """The answer, then two tables: who is in the pictures, and the price for everybody else."""
    from rich.markup import escape

    say_answer(whose + answer)
    sampler = result.sampler
    stdout.print(
        f"[bold]{escape(result.run)}[/], {sampler['sampler']}, {sampler['steps']} steps, "
        f"guidance {sampler['guidance']:g}; value ± half its 95 % interval",
        highlight=False,
    )
    rows = [row for row in result.rows if row.scores]
    utility = [row for row in rows if row.role == "utility"]
    _tables("Pictures of the subject", [row for row in rows if row.role != "utility"], verbose)
    _tables("Pictures of everything else", utility, verbose)
    asked = result.asked.get("metrics") or ()
    for missing in result.unavailable:
        if verbose or missing.metric in asked:
            stdout.print(
                f"[dim]not scored: {missing.metric} ({escape(missing.reason)})[/]",
                highlight=False,
                soft_wrap=True,
            )


def _tables(title: str, rows: Sequence[ScoreRow], verbose: bool) -> None:
    """As many metrics as fit beside each other; the others below, or counted."""
    if not rows:
        return
    shown = {score.metric: score.shown for row in rows for score in row.scores}
    room = stdout.width - max(min(24, len(_name(row))) for row in rows) - 2 - 11 - 7
    groups: list[list[str]] = [[]]
    left = room
    for metric in shown:
        texts = [_shown(score) for row in rows for score in row.scores if score.metric == metric]
        width = max(len(metric), *map(len, texts)) + 2
        if groups[-1] and width > left:
            groups.append([])
            left = room
        groups[-1].append(metric)
        left -= width
    for metrics in groups if verbose else groups[:1]:
        _table(title, rows, metrics)
        named = [f"{name} is {shown[name]}" for name in metrics if shown[name] != name]
        if named:
            stdout.print(f"{', '.join(named)}", style="dim", markup=False, highlight=False)
    hidden = [metric for metrics in groups[1:] for metric in metrics]
    if hidden and not verbose:
        stdout.print(
            f"Also scored (--verbose shows them): {', '.join(hidden)}",
            style="dim",
            markup=False,
            highlight=False,
        )


def _table(title: str, rows: Sequence[ScoreRow], metrics: Sequence[str]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, padding=(0, 1), pad_edge=False)
    table.add_column(title.lower().removeprefix("pictures of ").capitalize())
    table.add_column("Model", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True)
    for metric in metrics:
        table.add_column(escape(metric), justify="right", no_wrap=True)
    for row in rows:
        scores = {score.metric: score for score in row.scores}
        cells = [_shown(scores[metric]) if metric in scores else "" for metric in metrics]
        if any(cells):
            counts = _counts([scores[metric] for metric in metrics if metric in scores])
            table.add_row(escape(_name(row)), row.arm, counts, *cells)
    stdout.print(table, highlight=False)
    reasons = {
        f"{score.metric}: none where {score.why}"
        for row in rows
        for score in row.scores
        if score.why
    }
    for reason in sorted(reasons):
        stdout.print(reason, style="dim", markup=False, highlight=False)


def _name(row: ScoreRow) -> str:
    role = "" if row.role in ("attack", "utility") else f"{row.role}: "
    return role + row.label + (f", seed {row.seed}" if row.seed else "")


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
