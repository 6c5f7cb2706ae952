"""A table of the paper as data: what to run, and what was published for each row.

The numbers are those of arXiv 2511.01307 (NeurIPS 2025). What the paper does not state stays out
of the file and is printed as "not published here".
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from apdm_cli.config import Settings, read_toml, resolve
from apdm_cli.errors import UsageError
from apdm_cli.protection.settings import ProtectionSettings
from apdm_cli.protection.settings import preset as read_preset
from benchmarks.paper.metrics import METRICS

FOLDER = Path(__file__).parent
Arm = Literal["original", "protected"]


class AttackOptions(Settings):
    """One `apdm attack` call. Its defaults are the published protocol (docs/attacks.md)."""

    plugin: str = Field("dreambooth", description="attack by name")
    photos: Literal["seen", "unseen"] = Field("seen", description="which folder of the subject")
    count: int | None = Field(None, ge=1, description="only the first so many photos")
    identifier: str | None = Field(None, description="another word than the protected one")
    transform: tuple[str, ...] = Field((), description="what is done to the photos")


class ProtectOptions(Settings):
    """Options of `apdm protect` that a table or a row sets."""

    preset: str = Field("paper", description="of apdm protect")
    set: dict[str, Any] = Field({}, description="over the preset")

    @model_validator(mode="after")
    def _check(self) -> Self:
        resolve(ProtectionSettings, read_preset(self.preset), self.set)
        return self


class Row(Settings):
    """One row of a table: one number a class and metric.

    Roles. attack: pictures of the subject, drawn by an attacked model. utility: pictures for
    general captions, nobody attacked. other: another subject, taught to a model that protects the
    table's first class. context: published for another method, which is not run here.
    """

    label: str
    role: Literal["attack", "utility", "other", "context"] = "attack"
    arm: Arm = "protected"
    attack: str = Field("dreambooth", description="a key of the table's attacks")
    protect: dict[str, Any] = Field({}, description="settings over the table's protect.set")
    metrics: tuple[str, ...] = Field((), description="other metrics than the table's")
    unlike: dict[str, str] = Field(
        {}, description="metric: why ours cannot be held against the published number"
    )
    paper: dict[str, dict[str, float]] = Field({}, description="class: metric: published number")


class Table(Settings):
    """One TOML file of this folder."""

    title: str
    model: str = Field(description="hub id that is loaded without --model")
    classes: tuple[str, ...] = Field(min_length=1, description="whose subjects are protected")
    metrics: tuple[str, ...] = ("dino", "brisque")
    captions: bool = Field(False, description="needs a file of general captions")
    notes: tuple[str, ...] = Field((), description="where this differs from the paper's table")
    protect: ProtectOptions = ProtectOptions()
    evaluate: dict[str, Any] = Field({}, description="options of apdm evaluate")
    attack: dict[str, AttackOptions]
    row: tuple[Row, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for row in self.row:
            if row.attack not in self.attack:
                raise ValueError(f"row {row.label!r}: there is no attack {row.attack!r}")
            if strange := set(row.paper) - set(self.classes_of(row)):
                raise ValueError(f"row {row.label!r}: {strange} is none of the table's classes")
            published = {metric for values in row.paper.values() for metric in values}
            if lost := published - set(self.metrics_of(row)):
                raise ValueError(f"row {row.label!r}: {lost} would not be shown")
            if unknown := set(self.metrics_of(row)) - METRICS.keys():
                raise ValueError(f"row {row.label!r}: unknown metric {unknown}")
            self.protection_of(row)
        return self

    def metrics_of(self, row: Row) -> tuple[str, ...]:
        """What is shown for `row`."""
        return row.metrics or self.metrics

    def classes_of(self, row: Row) -> tuple[str, ...]:
        """Whose pictures `row` is about."""
        return tuple(row.paper) if row.role == "other" else self.classes

    def protection_of(self, row: Row) -> ProtectOptions:
        """How the model of `row` is protected."""
        return ProtectOptions(preset=self.protect.preset, set={**self.protect.set, **row.protect})


def table_names() -> list[str]:
    """Every table, in alphabetical order."""
    return sorted(file.stem for file in FOLDER.glob("*.toml"))


def load_table(name: str) -> Table:
    """A table by name. Raises UsageError for an unknown one, unknown keys and bad values."""
    if name not in table_names():
        raise UsageError(f"There is no table {name!r}.", f"Known are: {', '.join(table_names())}.")
    try:
        return resolve(Table, read_toml(FOLDER / f"{name}.toml"))
    except UsageError as error:
        raise UsageError(f"{name}.toml: {error.what}", error.hint) from None
