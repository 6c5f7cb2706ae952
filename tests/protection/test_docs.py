"""The example of docs/write-a-protection.md is a protection."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from apdm_cli.runs.jsonl import read_rows
from tests.protection.commands import Desk, forget_pipelines, run, same

PAGE = Path(__file__).parents[2] / "docs" / "write-a-protection.md"


@pytest.fixture(scope="module", autouse=True)
def _pipelines() -> Iterator[None]:
    yield
    forget_pipelines()


def test_the_example_runs_from_a_file(tmp_path: Path) -> None:
    """As it stands there, but for fewer steps: one file, and the option that names it."""
    (example,) = (
        block
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
        if "apdm_protections" in block
    )
    file = tmp_path / "ascent.py"
    file.write_text(example.replace("800", "3"), encoding="utf-8")
    desk = Desk(tmp_path)
    options = ("prior_pictures=4", "sampler_steps=2")
    arguments = desk.arguments("ascent")
    arguments = arguments[: arguments.index("--set")]
    sets = [part for option in options for part in ("--set", option)]
    assert run([*arguments, *sets, "--plugin-file", str(file), "--method", "ascent"]) == 0
    rows = read_rows(desk.runs / "ascent" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert all({"photos", "class_pictures"} <= set(row) for row in rows)
    assert desk.protect("apdm") == 0
    assert not same(desk.weights("ascent"), desk.weights("apdm"))
