"""Which attacks a page draws, where there are more than a reader looks at: tables have them all."""

from __future__ import annotations

import math

from apdm_cli.report.schema import Line, RunComparison

MOST = 24  # attacks whose charts and pictures are shown


def foremost(run: RunComparison, metric: str | None) -> RunComparison:
    """`run` with the lines, curves and work factors of at most `MOST` attacks, in table order.

    They are those whose pictures of the protected model come closest to the subject.

    Args:
        metric: the similarity that the answer rests on; without one the first attacks are taken.
    """
    labels = attack_labels(run)
    if len(labels) <= MOST:
        return run
    nearest = {label: -math.inf for label in labels}
    for line in run.lines:
        if line.role == "attack" and line.metric == metric:
            nearest[line.label] = max(nearest[line.label], _likeness(line))
    chosen = set(sorted(labels, key=lambda label: -nearest[label])[:MOST])
    return run.model_copy(
        update={
            "lines": tuple(one for one in run.lines if one.role != "attack" or one.label in chosen),
            "curves": tuple(one for one in run.curves if one.arm is None or one.label in chosen),
            "work": tuple(one for one in run.work if one.label in chosen),
        }
    )


def attack_labels(run: RunComparison) -> list[str]:
    """Of all attacks, in table order."""
    return list(dict.fromkeys(line.label for line in run.lines if line.role == "attack"))


def _likeness(line: Line) -> float:
    return -math.inf if line.protected is None else line.protected.value
