"""The scores that one line of the table is made of: those of one attack, budget and metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

from apdm_cli.errors import ApdmError
from apdm_cli.report import intervals
from apdm_cli.report.intervals import Quantity, Sample
from apdm_cli.scores import Arm, Better, MetricMeaning, Role, Score, ScoreRow, attack_label

ARMS: tuple[Arm, ...] = get_args(Arm)


@dataclass
class Group:
    """All scores of one attack at one budget (or topic, or neighbour) under one metric.

    Attributes:
        scores: arm -> seed -> score.
        steps: arm -> seed -> optimizer steps, None where they were not counted.
    """

    role: Role
    label: str
    meaning: MetricMeaning
    shown: str
    attack: str | None = None
    variant: str = ""
    budget: float = 1.0
    scores: dict[Arm, dict[int, Score]] = field(default_factory=lambda: {arm: {} for arm in ARMS})
    steps: dict[Arm, dict[int, int | None]] = field(
        default_factory=lambda: {arm: {} for arm in ARMS}
    )

    @property
    def draws_from(self) -> str:
        """Names the random numbers: every budget of an attack draws the same seeds and noise."""
        return f"{self.role}/{self.label}/{self.metric}"

    @property
    def metric(self) -> str:
        return self.meaning.name

    @property
    def better(self) -> Better | None:
        """None where neither direction is better: the variety of an attack's pictures tells of a
        collapse, and nothing of the subject.
        """
        neither = self.role == "attack" and self.meaning.collapse is not None
        return None if neither else self.meaning.direction(self.role)


def groups(
    rows: Sequence[ScoreRow], meanings: Mapping[str, MetricMeaning], role: Role
) -> list[Group]:
    """The groups of a role, budgets of one attack together.

    Raises:
        ApdmError: two rows are about the same, and one score would hide the other.
    """
    found: dict[tuple[str, str, float], Group] = {}
    for row in rows:
        if row.role != role:
            continue
        label = attack_label(row.attack, row.variant) if role == "attack" and row.attack else ""
        label = label or topic_of(row)
        for score in row.scores:
            if score.metric not in meanings:
                continue
            new = Group(
                role,
                label,
                meanings[score.metric],
                score.shown,
                row.attack,
                row.variant,
                row.budget,
            )
            group = found.setdefault((label, score.metric, row.budget), new)
            if row.seed in group.scores[row.arm]:
                raise ApdmError(
                    f"The scores have {score.metric} of {label} twice ({row.where}), and nothing "
                    "tells the two apart",
                    "Score the run again: apdm evaluate RUN",
                )
            group.scores[row.arm][row.seed] = score
            group.steps[row.arm][row.seed] = row.steps
    # The budgets of an attack stand together, ascending, where its first row stood.
    places = {key: place for place, key in reversed(list(enumerate((k[0], k[1]) for k in found)))}
    return sorted(found.values(), key=lambda one: (places[one.label, one.metric], one.budget))


def sample_of(score: Score) -> Sample:
    return Sample(score.value, score.low, score.high)


def levels_of(
    rows: Sequence[ScoreRow], meanings: Mapping[str, MetricMeaning], role: Role
) -> dict[str, Quantity]:
    """The floor of each metric. Its mean, where several seeds of it were drawn."""
    found = {}
    for group in groups(rows, meanings, role):
        known = [sample_of(s) for s in group.scores["original"].values() if s.has_value]
        if known:
            level = intervals.resample([known], f"{role}/{group.metric}")[0]
            found[group.metric] = level if level.draws is not None else intervals.fixed(level.value)
    return found


def topic_of(row: ScoreRow) -> str:
    """What stands in place of an attack's name: `class pictures`, or the neighbour."""
    return row.topic or row.role
