"""How many hostile inputs there are of which kind, and what became of them.

    python -m tests.hostile

runs every test that is marked `hostile` and prints the table. An input is one malformed file, text,
option, picture, model, plugin or place that is put through one door: the command `apdm`, or the
function that is the only way in. A test stands for one input unless it says how many it tried. It
fails for a traceback, for an end without a word, and for an input that was used as what it is not.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field

import pytest

APDM = "`apdm`"
_tried: list[int] = []  # of the test that runs


def hostile(kind: str, door: str = APDM) -> pytest.MarkDecorator:
    """Marks a test that puts inputs of `kind` through `door`."""
    return pytest.mark.hostile(kind, door)


def tried(count: int = 1) -> None:
    """Say that the running test has put `count` more inputs through."""
    _tried.append(count)


@dataclass
class Row:
    inputs: int = 0
    failures: int = 0


@dataclass(eq=False)  # pytest keeps its plugins in sets
class Counting:
    """The plugin of pytest that counts; `rows` by kind and door."""

    rows: dict[tuple[str, str], Row] = field(default_factory=dict)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        _tried.clear()
        marker = item.get_closest_marker("hostile")
        row = self.rows.setdefault(marker.args, Row()) if marker else Row()
        try:
            result = yield
        except pytest.skip.Exception:
            raise
        except BaseException:
            row.inputs += sum(_tried) or 1
            row.failures += 1
            raise
        row.inputs += sum(_tried) or 1
        return result

    def table(self) -> str:
        """Markdown."""
        lines = ["| kind | through | inputs | failures |", "|---|---|---:|---:|"]
        for (kind, door), row in sorted(self.rows.items()):
            lines.append(f"| {kind} | {door} | {row.inputs:,} | {row.failures} |")
        by_hand = sum(row.inputs for (_, door), row in self.rows.items() if door == APDM)
        inputs = sum(row.inputs for row in self.rows.values())
        failures = sum(row.failures for row in self.rows.values())
        lines.append(f"| all | of them {by_hand:,} {APDM} | {inputs:,} | {failures} |")
        return "\n".join(lines)
