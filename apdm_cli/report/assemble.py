"""From evaluated runs to the whole comparison, with the curves of their training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from apdm_cli import __version__
from apdm_cli.errors import stopped
from apdm_cli.report.arms import Protects, protects, words_for
from apdm_cli.report.command_words import evaluate_again
from apdm_cli.report.comparison import compare_rows
from apdm_cli.report.evaluated import (
    EvaluatedRun,
    comparable,
    unequal_settings,
)
from apdm_cli.report.line_pictures import topic_lines
from apdm_cli.report.provenance import provenance, subject_of
from apdm_cli.report.requirement import Expression, check
from apdm_cli.report.schema import (
    Comparison,
    Curve,
    Likeness,
    Line,
    Metric,
    Problem,
    RunComparison,
    WorkFactor,
)
from apdm_cli.report.variants import with_named_variants
from apdm_cli.report.verdict import answer, followed, primary, smallest, verdict
from apdm_cli.report.work import halfway, work_factors
from apdm_cli.runs.jsonl import read_rows
from apdm_cli.runs.manifest import now
from apdm_cli.scores import ScoresFile

POINTS = 120  # of a curve


@dataclass(frozen=True)
class Judged:
    """What scores show: the lines of the table, work factors, and both in words.

    Attributes:
        protected: what the run protects, which decides how its arms are spoken of.
        said: sentences about what could not be compared as asked.
    """

    protected: Protects
    lines: list[Line]
    metrics: tuple[Metric, ...]
    likeness: Likeness | None
    work: list[WorkFactor]
    answer: str
    verdict: str
    said: list[str]


def compare_runs(
    runs: Sequence[EvaluatedRun],
    requirements: Sequence[Expression] = (),
    likeness: float | None = None,
) -> Comparison:
    """Compare original and protected in every run, and check the requirements in each.

    Args:
        likeness: at which work factors are taken, in the metric that leads; halfway between its
            floor and ceiling, if None.

    Raises `ApdmError` where scores of different extractors or numbers of pictures would meet.
    """
    runs, left_out = comparable([with_named_variants(run) for run in runs])
    warnings = [*unequal_settings(runs), *left_out]
    compared = []
    for run in runs:
        one, said = _compare_run(run, [one.text for one in requirements], likeness)
        compared.append(one)
        warnings += [f"{run.name}: {sentence}" if len(runs) > 1 else sentence for sentence in said]
    return Comparison(
        apdm=__version__,
        created=now(),
        runs=tuple(compared),
        requirements=tuple(
            check(expression, run) for run in compared for expression in requirements
        ),
        warnings=tuple(map(stopped, warnings)),
    )


def weakest_first(
    comparison: Comparison, runs: Sequence[EvaluatedRun]
) -> tuple[Comparison, list[EvaluatedRun]]:
    """Both with the subjects of a run by what is known of their smallest work factors.

    An attacker takes the subject that is protected least. Runs stay in their order; where nothing
    is known of a subject's work factor, it stands before the others.
    """

    def known(place: int) -> tuple[int, float]:
        first = next(i for i, run in enumerate(runs) if run.run.path == runs[place].run.path)
        found = smallest(followed(comparison.runs[place].work))
        return first, found.known.low if found and found.known else -1.0

    order = sorted(range(len(runs)), key=known)
    compared = tuple(comparison.runs[place] for place in order)
    held = tuple(one for place in order for one in comparison.required(place))
    ordered = comparison.model_copy(update={"runs": compared, "requirements": held})
    return ordered, [runs[place] for place in order]


def judge(
    scores: ScoresFile, likeness: float | None = None, protected: Protects = "model"
) -> Judged:
    """What scores show, of a run that protects a model or photos."""
    lines, said = compare_rows(scores.rows, scores.metrics)
    metrics = tuple(_metrics(scores))
    aim = _likeness(scores, lines, metrics, likeness)
    works = work_factors(scores.rows, scores.meaning(aim.metric), aim) if aim else []
    noun = str(scores.subject.get("class_noun") or "")
    return Judged(
        protected,
        lines,
        metrics,
        aim,
        works,
        answer(lines, metrics, works, noun, protected),
        verdict(lines, metrics, works, aim, protected),
        said,
    )


def _likeness(
    scores: ScoresFile, lines: Sequence[Line], metrics: Sequence[Metric], asked: float | None
) -> Likeness | None:
    worst = primary(lines, metrics, "worst")
    if worst is None:
        return None
    value = halfway(scores.rows, scores.meaning(worst.metric)) if asked is None else asked
    if value is None:
        return None
    return Likeness(metric=worst.metric, value=value, halfway=asked is None)


def _compare_run(
    run: EvaluatedRun, require: Sequence[str], likeness: float | None
) -> tuple[RunComparison, list[str]]:
    judged = judge(run.scores, likeness, protects(run.run.manifest))
    lines, metrics, said = judged.lines, judged.metrics, list(judged.said)
    one_armed = [
        line.title
        for line in lines
        if line.role == "attack" and line.original is None and "original" not in line.no_value
    ]
    if one_armed:
        said.append(
            f"No control arm for {', '.join(dict.fromkeys(one_armed))}: without the same attack "
            f"{words_for(judged.protected).on_original} a low score shows nothing"
        )
    protected = (r for r in run.scores.rows if (r.role, r.arm) == ("attack", "protected"))
    cells = [manifest for row in protected if (manifest := run.cell_manifest(row))]
    compared = RunComparison(
        name=run.name,
        protects=judged.protected,
        answer=judged.answer,
        verdict=judged.verdict,
        subject=subject_of(run.run.manifest),
        metrics=metrics,
        lines=tuple(lines),
        likeness=judged.likeness,
        work=tuple(judged.work),
        class_pictures=tuple(topic_lines(run.scores.rows)),
        curves=tuple(read_curves(run, lines)),
        problems=tuple(_problems(run)),
        provenance=provenance(run, cells, require, likeness),
    )
    return compared, said


def _metrics(scores: ScoresFile) -> list[Metric]:
    found: dict[str, Metric] = {}
    for row in scores.rows:
        for score in row.scores:
            n = score.n + score.skipped
            if score.metric in found and found[score.metric].n >= n:
                continue
            meaning = scores.meaning(score.metric)
            found[score.metric] = Metric(
                metric=score.metric,
                title=meaning.title,
                explanation=meaning.explanation,
                kind=meaning.kind,
                leads=meaning.leads,
                collapse=meaning.collapse,
                biased_below=meaning.biased_below,
                backend=score.backend.name,
                digest=score.backend.digest,
                n=n,
            )
    return list(found.values())


def _problems(run: EvaluatedRun) -> list[Problem]:
    problems = [Problem(what=f"attack {cell} failed", why=why) for cell, why in run.failed.items()]
    again = evaluate_again(run.run, run.scores)
    problems += [
        Problem(what=f"attack {cell} is not scored", why=f"run: {again}") for cell in run.waiting
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


def read_curves(run: EvaluatedRun, lines: Sequence[Line]) -> list[Curve]:
    """The protection's curve, then the loss of every attack in `lines`, original first.

    Of an attack with several budgets the longest, whose log holds the others; of one with several
    seeds the one whose pictures are shown. Missing logs are left out.
    """
    curves = []
    rows = read_rows(run.run.metrics_log)
    protection = thin(rows, [name for name in dict.fromkeys(chain(*rows)) if name != "step"])
    if protection:
        steps, values = protection
        curves.append(
            Curve(
                label="protection",
                arm=None,
                seed=int(run.run.manifest.get("seed") or 0),
                steps=steps,
                values=values,
                titles=run.run.manifest.get("terms") or {},
            )
        )
    longest: dict[str, Line] = {}
    for line in lines:
        if line.role == "attack":
            held = longest.setdefault(line.label, line)
            longest[line.label] = max(held, line, key=lambda one: one.budget)
    for line in longest.values():
        for row in run.scores.rows:
            if (
                row.role != "attack"
                or (row.attack, row.variant, row.budget) != (line.attack, line.variant, line.budget)
                or row.seed != line.pictures.seed
            ):
                continue
            log = read_rows(run.cell_folder(row) / "losses.jsonl")
            loss = thin(log[: row.steps], ("loss",))  # the log goes on to the longest budget
            if loss:
                steps, values = loss
                curves.append(
                    Curve(label=line.label, arm=row.arm, seed=row.seed, steps=steps, values=values)
                )
    return sorted(curves, key=lambda curve: curve.arm == "protected")


def thin(
    rows: Sequence[dict[str, Any]], names: Sequence[str], points: int = POINTS
) -> tuple[tuple[int, ...], dict[str, tuple[float | None, ...]]] | None:
    """Means over equal blocks of steps: at most `points` of them, step = the block's last.

    Only the `names` that some row has; None without any.
    """
    present = [name for name in names if any(_finite(row.get(name)) for row in rows)]
    if not present:
        return None
    size = math.ceil(len(rows) / points)
    blocks = [rows[start : start + size] for start in range(0, len(rows), size)]
    steps = tuple(int(block[-1].get("index", number)) for number, block in enumerate(blocks))
    values = {name: tuple(_mean([row.get(name) for row in b]) for b in blocks) for name in present}
    return steps, values


def _mean(values: Sequence[Any]) -> float | None:
    finite = [float(value) for value in values if _finite(value)]
    return sum(finite) / len(finite) if finite else None


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
