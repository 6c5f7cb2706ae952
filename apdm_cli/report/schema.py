"""The data of comparison.json, version 2: everything that the table and the report say.

`comparison.schema.json` beside this package's code is made from these classes:
`python -m apdm_cli.report.schema` writes it again, and a test compares the two.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from apdm_cli.report.arms import Protects
from apdm_cli.scores import Arm, Better, Kind

SCHEMA_FILE = Path("schema") / "comparison.schema.json"

LineRole = Literal[
    "attack", "worst", "mean", "utility", "neighbour", "neighbours", "floor", "ceiling"
]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Interval(_Part):
    """A number and its 95 % interval, null where nothing is known of its spread."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval is known and all on one side of zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


class Estimate(Interval):
    """A mean over seeds."""

    seeds: tuple[int, ...] = Field(description="seeds of the attack that entered")
    per_seed: tuple[float, ...] = Field(description="the score of each seed, in that order")
    n: int = Field(description="pictures behind each seed's score, skipped ones left out")
    skipped: int = Field(description="pictures over all seeds that could not be scored")
    steps: float | None = Field(
        None, description="optimizer steps behind the attacked model, mean over seeds"
    )


class Pictures(_Part):
    """Folders of NNNN.png, relative to the run's folder; the same number is the same seed."""

    original: str | None = None
    protected: str | None = None
    seed: int = 0


class Line(_Part):
    """One row of the table: one attack (or a summary of all) under one metric, both arms."""

    role: LineRole
    label: str = Field(description="as shown")
    attack: str | None = None
    variant: str = ""
    budget: float = Field(1.0, description="multiple of the attack's own steps that was spent")
    metric: str
    shown_metric: str = Field(description="the metric as shown, with its backend: fid[pocket]")
    better: Better | None = Field(
        description="for attacks, what is better for the protected person; for utility, what is "
        "better for everybody else; null where neither direction is"
    )
    original: Estimate | None = None
    protected: Estimate | None = None
    difference: Interval | None = Field(None, description="protected − original, paired by seed")
    cut: Interval | None = Field(
        None,
        description="(original − protected) / (original − floor); null without a floor, where "
        "the attack gained nothing on the original, or where neither direction is better",
    )
    kept: Interval | None = Field(None, description="neighbours: protected / original")
    reached_by: dict[Arm, str] = Field(
        {},
        description="worst: the attack, in each arm, of those with a value in both where any has",
    )
    no_value: dict[Arm, str] = Field(
        {}, description="arms that were attacked and have no value here: why"
    )
    pictures: Pictures = Pictures()

    @property
    def lacks(self) -> int:
        """How little it says of the protection: 0 with both arms, 1 without the original, 2
        without the protected one. Summaries are of the lines that lack least.
        """
        return 2 if self.protected is None else 1 if self.original is None else 0

    @property
    def title(self) -> str:
        """The label, with the budget where it is another than the attack's own steps."""
        return self.label if self.budget == 1 else f"{self.label}, {self.budget:g} × the steps"


class Limits(_Part):
    """A number of which only limits may be known."""

    low: float = Field(description="at least this; 0 where nothing bounds it from below")
    high: float | None = Field(description="at most this; null where nothing bounds it from above")

    @property
    def exact(self) -> bool:
        """Whether both limits are one number."""
        return self.low == self.high


class Likeness(_Part):
    """The similarity that an attacker is after."""

    metric: str
    value: float
    halfway: bool = Field(description="between floor and ceiling; false: asked for (--likeness)")


class WorkFactor(_Part):
    """How many times as many steps one attack needs on the protected model to get a likeness."""

    label: str
    attack: str | None = None
    variant: str = ""
    stops: int = Field(description="how often the attack was looked at")
    original: Limits = Field(description="steps on the original")
    protected: Limits = Field(description="steps on the protected model")
    factor: Limits | None = Field(description="null: not counted, why_not says why")
    interval: Limits | None = Field(description="95 %; null where nothing is known of the spread")
    why_not: str = ""

    @property
    def known(self) -> Limits | None:
        """What a word, an order or a requirement may rest on.

        The measured factor where both curves cross between stops; where the stops show a limit
        only, the limit that holds with the uncertainty of the scores.
        """
        if self.factor is None or self.factor.exact:
            return self.factor
        return self.interval or self.factor


class Metric(_Part):
    """A metric in this run: what it says, and what computed it."""

    metric: str
    title: str
    explanation: str = Field(description="for a reader who is new to it")
    kind: Kind = Field(
        description="similarity: more is more alike; distance: between two sets of pictures; "
        "quality: any other value per picture"
    )
    leads: bool = Field(description="whether the verdict may rest on it; of several the first does")
    collapse: str | None = Field(description="what a collapse says, where neither direction does")
    biased_below: int = Field(
        description="fewer pictures than this bias it: only equal numbers compare"
    )
    backend: str
    digest: str
    n: int = Field(description="pictures asked for per cell, the largest of all rows")

    def heading(self, shown: str) -> str:
        """`Similarity to the subject (dino[pocket-vit])`; `shown` is the name with its backend."""
        return shown if self.title == self.metric else f"{self.title} ({shown})"


class Curve(_Part):
    """The loss of one training, at most 120 points."""

    label: str
    arm: Arm | None = Field(description="null: the protection itself")
    seed: int
    values: dict[str, tuple[float | None, ...]] = Field(description="series by name")
    titles: dict[str, str] = Field(
        {}, description="what a series shows; of a protection that names some, only these are drawn"
    )
    steps: tuple[int, ...]


class Problem(_Part):
    """Something that is missing from the comparison, and why."""

    what: str
    why: str


class Provenance(_Part):
    """How to do it again."""

    commands: tuple[str, ...]
    versions: dict[str, str | None]
    configuration: dict[str, Any]
    model: dict[str, Any]
    protected_digest: str | None
    sampler: dict[str, Any]
    prompts: dict[str, Any]
    seed: int
    device: str | None
    dtype: str | None
    created: str | None
    duration_seconds: float | None


class Subject(_Part):
    """Whom the run protects. Names and digests only, never where the photos lie."""

    name: str
    class_noun: str
    identifier: str
    photos: tuple[dict[str, str], ...] = Field(description="name and sha256")

    @property
    def words(self) -> str:
        return f"{self.identifier} {self.class_noun}".strip()


class RunComparison(_Part):
    """One run: its original against its protected model, or the same with photos."""

    name: str
    protects: Protects = Field(
        "model",
        description="photos: both arms are one model, taught with the original photos and with "
        "the perturbed ones",
    )
    answer: str = Field(description="what the numbers show, in one or two plain sentences")
    verdict: str = Field(description="the numbers behind the answer")
    subject: Subject
    metrics: tuple[Metric, ...]
    lines: tuple[Line, ...]
    likeness: Likeness | None = Field(description="null: no floor or ceiling, and none asked for")
    work: tuple[WorkFactor, ...] = Field(description="one for each attack scored on both models")
    class_pictures: tuple[Line, ...] = Field(description="topics with pictures, for the report")
    curves: tuple[Curve, ...]
    problems: tuple[Problem, ...]
    provenance: Provenance

    def of(self, role: LineRole, metric: str | None = None) -> Iterator[Line]:
        """The lines of that role (and metric), in order."""
        for line in self.lines:
            if line.role == role and metric in (None, line.metric):
                yield line

    def metric(self, name: str) -> Metric:
        """The metric of that name."""
        return next(metric for metric in self.metrics if metric.metric == name)

    def metrics_of(self, role: LineRole) -> list[str]:
        """The metrics that lines of that role have, in order of appearance."""
        return list(dict.fromkeys(line.metric for line in self.of(role)))


class Requirement(_Part):
    """One --require, for one run."""

    run: str
    text: str
    held: bool
    value: float | None
    says: str = Field(description="in words, with the number")


class Comparison(_Part):
    """comparison.json."""

    schema_: Literal[2] = Field(2, alias="schema")
    kind: Literal["comparison"] = "comparison"
    apdm: str = Field(description="version of apdm that compared")
    created: str
    runs: tuple[RunComparison, ...]
    requirements: tuple[Requirement, ...] = Field((), description="those of each run together")
    warnings: tuple[str, ...] = ()

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    def required(self, place: int) -> tuple[Requirement, ...]:
        """What was required of the run at that place: two runs may have one name."""
        each = len(self.requirements) // max(1, len(self.runs))
        return self.requirements[place * each : (place + 1) * each]

    @property
    def holds(self) -> bool:
        return all(requirement.held for requirement in self.requirements)

    def as_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json", by_alias=True)


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of comparison.json."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Comparison.model_json_schema(by_alias=True, mode="serialization"),
    }


def shipped_schema() -> dict[str, Any]:
    """The schema file of the package."""
    return json.loads((files(__package__) / str(SCHEMA_FILE)).read_text(encoding="utf-8"))


if __name__ == "__main__":
    text = json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
    (Path(__file__).parent / SCHEMA_FILE).write_text(text, encoding="utf-8")
