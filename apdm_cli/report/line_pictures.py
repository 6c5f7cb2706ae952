"""The pictures behind a line of the table: the same seed in both arms, where both have one."""

from __future__ import annotations

from collections.abc import Sequence

from apdm_cli.report.groups import ARMS, Group, topic_of
from apdm_cli.report.schema import Line, Pictures
from apdm_cli.scores import Arm, ScoreRow

_Found = dict[Arm, dict[int, str]]


def topic_lines(rows: Sequence[ScoreRow]) -> list[Line]:
    """One line per topic of utility pictures, whether scored or not: what to show side by side."""
    lines = []
    for topic in dict.fromkeys(topic_of(row) for row in rows if row.role == "utility"):
        of_topic = [row for row in rows if row.role == "utility" and topic_of(row) == topic]
        pictures = _utility_pictures(of_topic)
        if pictures.original and pictures.protected:
            lines.append(
                Line(
                    role="utility",
                    label=topic,
                    metric="",
                    shown_metric="",
                    better="lower",
                    pictures=pictures,
                )
            )
    return lines


def pictures_of(group: Group, rows: Sequence[ScoreRow]) -> Pictures:
    """The pictures behind one line of the table: the first seed that both arms have."""
    role, label = group.role, group.label
    if role == "utility":
        return _utility_pictures([r for r in rows if r.role == role and topic_of(r) == label])
    found = _nothing()
    for row in rows:
        same = row.role == role and (row.attack, row.variant, row.budget) == (
            group.attack,
            group.variant,
            group.budget,
        )
        if same and row.images and (role == "attack" or topic_of(row) == label):
            found[row.arm].setdefault(row.seed, row.images)
    return _first_shared(found)


def _utility_pictures(rows: Sequence[ScoreRow]) -> Pictures:
    """Same seeds on both sides: the original's pictures of the seeds that the protected has."""
    found = _nothing()
    for row in rows:
        if row.images:
            found[row.arm][row.seed] = row.images
    return _first_shared(found)


def _first_shared(found: _Found) -> Pictures:
    shared = set(found["original"]) & set(found["protected"])
    seed = min(shared or found["protected"] or found["original"] or {0})
    return Pictures(
        original=found["original"].get(seed), protected=found["protected"].get(seed), seed=seed
    )


def _nothing() -> _Found:
    return {arm: {} for arm in ARMS}
