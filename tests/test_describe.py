"""What `describe` makes of fields of every shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from apdm_cli.config import Settings, describe


class Inner(Settings):
    """What is inside.

    Its defaults are from a paper.
    """

    depth: int = Field(2, ge=1, le=9, description="how deep")


class Base(Settings):
    """Common to all."""

    shared: float = Field(0.5, gt=0, description="shared by all")
    changed: int = Field(1, description="in the base")


class Outer(Base):
    """The whole."""

    changed: int = Field(7, description="in the whole")
    word: Literal["a", "b"] | None = Field(None, description="a word")
    flags: tuple[bool, ...] = Field((), description="flags")
    pair: tuple[float, int] = Field((0.5, 1), description="a pair")
    where: Path | None = Field(None, description="a place")
    table: dict[str, Any] = Field({}, description="a table")
    inner: Inner = Inner(depth=5)


def test_every_shape_of_field() -> None:
    rows = {one.key: one for one in describe(Outer)}
    assert rows["word"].kind == "one of the choices or none" and rows["word"].choices == ("a", "b")
    assert rows["flags"].kind == "list: true or false"
    assert rows["pair"].kind == "list of 2: number, whole number"
    assert rows["where"].kind == "path or none" and rows["table"].kind == "table"
    assert rows["shared"].range == "above 0"
    assert rows["inner.depth"].range == "at least 1, at most 9"


def test_the_default_of_an_inner_field_is_the_one_that_the_outer_model_gives() -> None:
    rows = {one.key: one for one in describe(Outer)}
    assert rows["inner.depth"].default == Outer().inner.depth == 5


def test_the_source_is_the_model_that_declared_the_default_last() -> None:
    rows = {one.key: one for one in describe(Outer)}
    assert rows["shared"].source == "Common to all."
    assert rows["changed"].source == "The whole."
    assert rows["inner.depth"].source == "Its defaults are from a paper."
