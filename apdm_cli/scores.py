"""The score record: what `apdm evaluate` writes into scores.json, and `apdm compare` reads.

A score never travels without its sample count and the extractor behind it, and a metric never
without what it means, so that a reader needs to know no metric by its name.
"""

from __future__ import annotations

import json
import math
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from apdm_cli.errors import ApdmError
from apdm_cli.runs.jsonable import jsonable
from apdm_cli.runs.manifest import read_json

SCORES = "scores.json"
SCHEMA = 2
FAILED = "failed: "  # how the reason of a metric begins whose own code went wrong

Better = Literal["lower", "higher"]
Kind = Literal["similarity", "distance", "quality"]
Arm = Literal["original", "protected"]
Role = Literal["attack", "utility", "neighbour", "floor", "ceiling"]

_NO_MORE = ConfigDict(extra="forbid")
# A file has null where memory has NaN: a score without a value is never a number by mistake.
_Value = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]


@dataclass(frozen=True, config=_NO_MORE)
class Backend:
    """The feature extractor behind a score.

    Attributes:
        name, digest: of the extractor and of its weights.
        stand_in: shown after the metric's name (`fid[pocket]`) where this extractor stands in for
            the one that the name makes a reader expect; empty otherwise.
    """

    name: str
    digest: str
    stand_in: str = ""


@dataclass(frozen=True, config=_NO_MORE)
class Score:
    """A number with everything needed to judge it.

    Attributes:
        metric: the metric's name, for example "dino".
        value: the score; NaN where no picture could be scored.
        n: pictures that entered; skipped: pictures that could not (constant, NaN).
        backend: what computed it. Scores of different backends are never compared.
        low, high: 95 % confidence interval, where one exists.
        per_picture: the value of each picture, where that exists.
        why: why there is no value, where it is not that every picture is of one colour.
    """

    metric: str
    value: _Value
    n: Annotated[int, Field(ge=0)]
    skipped: Annotated[int, Field(ge=0)]
    backend: Backend
    low: float | None = None
    high: float | None = None
    per_picture: tuple[float, ...] = field(default=(), repr=False)
    why: str = ""

    @property
    def has_value(self) -> bool:
        """Whether there is a number at all."""
        return math.isfinite(self.value)

    @property
    def shown(self) -> str:
        """The metric as people see it: `dino`, or `fid[pocket]` where a stand-in computed it."""
        return f"{self.metric}[{self.backend.stand_in}]" if self.backend.stand_in else self.metric


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MetricMeaning(_Record):
    """What the scores of a metric mean, as the metric itself declares it.

    Attributes:
        name: as typed after --metrics.
        title: heading of its tables, without the name.
        explanation: one or two sentences for a reader who is new to it.
        kind: "similarity", a mean over pictures in which more is more alike; "distance", between
            two *sets* of pictures, of which equal numbers are needed; "quality", any other value
            per picture.
        better: the direction that is better for the protected person, in pictures of an attack.
        better_for_others: the same for everybody else, in pictures without the subject and for
            neighbours who should stay teachable.
        leads: whether the verdict may rest on it. Of several the first leads.
        collapse: for a metric that takes no side in pictures of an attack, what its collapse says
            ("near 0 is a collapse"); None where a direction is better.
        biased_below: number of pictures below which its value depends on how many there are; 0
            where it never does.
    """

    name: str
    title: str
    explanation: str
    kind: Kind
    better: Better
    better_for_others: Better
    leads: bool = False
    collapse: str | None = None
    biased_below: int = 0

    def direction(self, role: Role) -> Better:
        """The better direction in a row of that role, for whom the row is about."""
        return self.better_for_others if role in ("utility", "neighbour") else self.better


class ScoreRow(_Record):
    """The scores of one folder of pictures.

    Attributes:
        role: attack, utility (pictures of everything else), neighbour (somebody else was taught),
            floor or ceiling.
        attack, variant, cell, seed: of the attacked model, where one was attacked.
        budget: multiple of the attack's own steps that was spent.
        steps: optimizer steps behind the attacked model; None where nothing was trained.
        arm: the model that was attacked, or drew.
        topic: what utility pictures show, or who the neighbour is.
        label: for people.
        images: folder of the pictures, relative to the run; None where they were never written.
        prompts: one per picture.
    """

    role: Role
    attack: str | None = None
    variant: str = ""
    cell: str | None = None
    arm: Arm
    seed: int = 0
    budget: float = 1.0
    steps: int | None = None
    topic: str = ""
    label: str = ""
    images: str | None = None
    prompts: tuple[str, ...] = ()
    scores: tuple[Score, ...] = ()

    @model_validator(mode="after")
    def _names_what_it_is_about(self) -> Self:
        if self.role in ("attack", "neighbour") and not self.attack:
            raise ValueError(f"a row about an {self.role} does not name the attack")
        return self

    @property
    def where(self) -> str:
        """Readable, for messages: `dreambooth (unseen photos), protected, seed 1`."""
        what = attack_label(self.attack, self.variant) if self.attack else self.label or self.role
        budget = "" if self.budget == 1 else f", {self.budget:g} × the steps"
        return f"{what}{budget}, {self.arm}, seed {self.seed}"


class Unavailable(_Record):
    """A metric that could not be computed, and why."""

    metric: str
    reason: str

    @property
    def failed(self) -> bool:
        """Whether its own code went wrong, and not only something that it needs is not here."""
        return self.reason.startswith(FAILED)


class LeftOut(_Record):
    """Pictures that could not be made or scored, and why."""

    cell: str | None = None
    reason: str


class PromptSet(_Record):
    """The prompts of an evaluation: name of the set (or file), how many, and the templates."""

    set: str
    n: int
    texts: tuple[str, ...] = ()


class ScoresFile(_Record):
    """evaluation/scores.json.

    Attributes:
        run: name of the run.
        asked: what `apdm evaluate` was asked otherwise than its defaults.
        model, protected_digest: the original (None where it is unknown) and the protected model.
        sampler: how pictures were drawn (sampler, steps, guidance, seed).
        dtype: the precision that they were drawn in ("float32"); None where it was not kept.
        metrics: what every metric in the rows means, in the order asked for.
        unavailable, left_out: what is missing, and why.
    """

    schema_: Literal[2] = Field(2, alias="schema")
    run: str
    asked: dict[str, Any] = {}
    model: dict[str, Any] | None = None
    protected_digest: str | None = None
    sampler: dict[str, Any] = {}
    dtype: str | None = None
    prompts: PromptSet
    subject: dict[str, Any] = {}
    metrics: tuple[MetricMeaning, ...]
    rows: tuple[ScoreRow, ...]
    unavailable: tuple[Unavailable, ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    @model_validator(mode="after")
    def _every_metric_is_described(self) -> Self:
        known = {metric.name for metric in self.metrics}
        used = dict.fromkeys(score.metric for row in self.rows for score in row.scores)
        unknown = [name for name in used if name not in known]
        if unknown:
            raise ValueError(f"nothing says what {', '.join(unknown)} means")
        return self

    @property
    def missing(self) -> tuple[str, ...]:
        """What was asked for and is not there, in words: nothing where everything is.

        Every attack of the run is asked for, and every metric that was named; one that was not
        named is asked for as far as it can be used here.
        """
        named = self.asked.get("metrics") or ()
        metrics = [one.metric for one in self.unavailable if one.failed or one.metric in named]
        words = [one.cell or one.reason for one in self.left_out]
        words += [f"the metric {metric}" for metric in metrics]
        return tuple(dict.fromkeys(words))

    @classmethod
    def read(cls, file: Path, again: str) -> ScoresFile:
        """The scores in `file`.

        Args:
            again: the command that scores the run again.

        Raises:
            ApdmError: it is missing or broken, or another version wrote it; the hint is the command
                that scores the run again.
        """
        table = read_json(file)
        hint = f"Score the run again (its pictures are kept): {_command(table, again)}"
        if table.get("schema") != SCHEMA:
            raise ApdmError(
                f"{file} has the form of another version of apdm (schema {_version(table)}, "
                f"this one reads {SCHEMA})",
                hint,
            )
        try:
            # As JSON, which strictly has lists for tuples; but no type is bent into another.
            return cls.model_validate_json(json.dumps(table), strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the whole"
            raise ApdmError(
                f"{file} cannot be used: {where}: {first['msg'][:300]}", hint
            ) from error

    def meaning(self, metric: str) -> MetricMeaning:
        """What `metric`, of some row, means."""
        return next(one for one in self.metrics if one.name == metric)

    def as_json(self) -> dict[str, Any]:
        """As it is written: NaN and infinities are null."""
        return dict(jsonable(self.model_dump(by_alias=True)))


def attack_label(attack: str, variant: str) -> str:
    """`dreambooth`, or `dreambooth (unseen photos)`."""
    return f"{attack} ({variant})" if variant else attack


def _version(table: dict[str, Any]) -> str:
    """The schema that a file names; of what is no number only that."""
    version = table.get("schema")
    return str(version) if type(version) is int and 0 <= version < 1_000 else "unknown"


def _command(table: dict[str, Any], again: str) -> str:
    """`again`, with the number of pictures that a file of any version tells."""
    prompts = table.get("prompts")
    count = prompts.get("n") if isinstance(prompts, dict) else None
    return again + (f" --images {count}" if isinstance(count, int) else "")
