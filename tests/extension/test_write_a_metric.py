"""The page docs/write-a-metric.md: its code runs as it stands."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any, ClassVar

from apdm_cli.testing import MetricContract

PAGE = Path(__file__).parents[2] / "docs" / "write-a-metric.md"


def example() -> Any:
    """What the first block of the page registers."""
    found = re.search(r"(?:^    .*\n|^\n(?=    ))+", PAGE.read_text(encoding="utf-8"), re.M)
    assert found is not None
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(textwrap.dedent(found.group()), str(PAGE), "exec", dont_inherit=True), names)
    (metric,) = names["apdm_metrics"]()
    return metric


class TestPalette(MetricContract):
    metric: ClassVar = example()
