"""From evaluated runs to the whole comparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from apdm_cli import __version__
from apdm_cli.errors import ApdmError
from apdm_cli.report.comparable import check_comparable, unequal_settings
from apdm_cli.report.comparison import compare_rows
from apdm_cli.report.curves import cell_folder, read_curves
from apdm_cli.report.pairing import topic_lines
from apdm_cli.report.provenance import provenance, subject_of
from apdm_cli.report.requirement import Expression, check
from apdm_cli.report.schema import Comparison, Metric, Problem, RunComparison
from apdm_cli.report.scores import EvaluatedRun, ScoreRow
from apdm_cli.report.variants import flat_settings, name_variants
from apdm_cli.report.verdict import verdict
from apdm_cli.runs.manifest import now, read_manifest


def compare_runs(
    runs: Sequence[EvaluatedRun], requirements: Sequence[Expression] = ()
) -> Comparison:
    """Compare original and protected in every run, and check the requirements in each.

    Raises `ApdmError` where scores of different extractors or numbers of pictures would meet.
    """
    runs = [_with_named_variants(run) for run in runs]
    check_comparable(runs)
    warnings = unequal_settings(runs)
    compared = []
    for run in runs:
        one, said = _compare_run(run, [expression.text for expression in requirements])
        compared.append(one)
        warnings += [f"{run.name}: {sentence}" if len(runs) > 1 else sentence for sentence in said]
    return Comparison(
        apdm=__version__,
        created=now(),
        runs=tuple(compared),
        requirements=tuple(
            check(expression, run) for run in compared for expression in requirements
        ),
        warnings=tuple(warnings),
    )


def _compare_run(run: EvaluatedRun, require: Sequence[str]) -> tuple[RunComparison, list[str]]:
    lines, said = compare_rows(run.scores.rows)
    one_armed = [line.label for line in lines if line.role == "attack" and line.original is None]
    if one_armed:
        said.append(
            f"No control arm for {', '.join(dict.fromkeys(one_armed))}: without the same attack on "
            "the original a low score shows nothing"
        )
    cells = [_manifest(run, row) for row in run.scores.rows if _is_protected_attack(row)]
    compared = RunComparison(
        name=run.name,
        verdict=verdict(lines),
        subject=subject_of(run.run.manifest),
        metrics=tuple(_metrics(run)),
        lines=tuple(lines),
        class_pictures=tuple(topic_lines(run.scores.rows)),
        curves=tuple(read_curves(run, lines)),
        problems=tuple(_problems(run)),
        provenance=provenance(run, [cell for cell in cells if cell], require),
    )
    return compared, said


def _with_named_variants(run: EvaluatedRun) -> EvaluatedRun:
    rows = run.scores.rows
    settings = {
        row.cell: flat_settings(_manifest(run, row))
        for row in rows
        if row.role == "attack" and row.cell
    }
    named = tuple(name_variants(rows, settings))
    scores = run.scores.model_copy(update={"rows": named})
    return EvaluatedRun(run.run, scores, run.failed, run.waiting)


def _is_protected_attack(row: ScoreRow) -> bool:
    return row.role == "attack" and row.arm == "protected"


def _manifest(run: EvaluatedRun, row: ScoreRow) -> dict[str, Any]:
    """The manifest of a row's attack cell; empty when the cell was removed since."""
    try:
        return read_manifest(cell_folder(run, row.cell, row.arm))
    except ApdmError:
        return {}


def _metrics(run: EvaluatedRun) -> list[Metric]:
    found: dict[str, Metric] = {}
    for row in run.scores.rows:
        for score in row.scores:
            n = score.n + score.skipped
            if score.metric in found and found[score.metric].n >= n:
                continue
            found[score.metric] = Metric(
                metric=score.metric,
                backend=score.backend.name,
                digest=score.backend.digest,
                n=n,
            )
    return list(found.values())


def _problems(run: EvaluatedRun) -> list[Problem]:
    problems = [Problem(what=f"attack {cell} failed", why=why) for cell, why in run.failed.items()]
    problems += [
        Problem(what=f"attack {cell} is not scored", why=f"run: apdm evaluate {run.name}")
        for cell in run.waiting
    ]
    problems += [
        Problem(what=f"{gone.metric} is not available", why=gone.reason)
        for gone in run.scores.unavailable
    ]
    problems += [
        Problem(what=f"{gone.cell or 'something'} was left out of the evaluation", why=gone.reason)
        for gone in run.scores.left_out
    ]
    return problems
