"""Of very many attacks a page draws those that come closest; its tables have all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from apdm_cli.report import foremost
from apdm_cli.report.assemble import compare_runs
from apdm_cli.report.evaluated import open_runs
from apdm_cli.report.publish import render_html
from tests.report.synthetic import both, full_rows, make_run

VALUES = {"rank=1": 0.1, "rank=2": 0.5, "rank=3": 0.2, "rank=4": 0.4}


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(foremost, "MOST", 2)
    attacks = [
        row for name, value in VALUES.items() for row in both("lora", 0.6, value, variant=name)
    ]
    others = [row for row in full_rows() if row["role"] != "attack"]
    make_run(tmp_path, "many", [*attacks, *others], pictures=2)
    runs = open_runs(tmp_path, ["many"])
    return render_html(compare_runs(runs), runs)


def test_the_closest_are_drawn_in_the_order_of_the_table(page: str) -> None:
    headings = re.findall(r"<h3>lora.*?(rank=\d)", page)
    assert headings == ["rank=2", "rank=4"]
    charts = [text for text in re.findall(r'aria-label="([^"]*)"', page) if "rank" in text]
    drawn = " ".join(text for text in charts if text.startswith(("Chart of", "Training loss")))
    assert "rank=2" in drawn and "rank=4" in drawn
    assert "rank=1" not in drawn and "rank=3" not in drawn


def test_the_others_are_counted_and_stand_in_the_tables(page: str) -> None:
    assert "2 more stand in the tables only" in page
    rows = re.findall(r'<th scope="row">lora.*?(rank=\d)', page)
    assert set(rows) == set(VALUES)
