"""The same rows in the terminal, as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from rich.console import Console

from apdm_cli.report.assemble import compare_runs
from apdm_cli.report.comparison import compare_rows
from apdm_cli.report.evaluated import open_runs
from apdm_cli.report.publish import render_html
from apdm_cli.report.requirement import parse
from apdm_cli.report.schema import Comparison, Interval, Line
from apdm_cli.report.table import comma_separated, markdown, rich_tables
from apdm_cli.report.words import (
    direction,
    number,
    percent,
    signed,
    verdict_on,
    with_interval,
)
from apdm_cli.scores import ScoreRow
from tests.report.synthetic import (
    METRICS,
    REPORTED,
    attack_row,
    both,
    full_rows,
    levels,
    make_run,
    neighbour_rows,
    row,
    score,
)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    root = tmp_path_factory.mktemp("runs")
    make_run(root, pictures=0)
    return compare_runs(open_runs(root, []), [parse("worst.dino<=0.3"), parse("mean.dino<0.5")])


def printed(comparison: Comparison, width: int, color: bool = False, verbose: bool = False) -> str:
    console = Console(
        width=width,
        file=io.StringIO(),
        force_terminal=color,
        color_system="standard" if color else None,
    )
    console.print(rich_tables(comparison, width, verbose=verbose))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_worst_case_is_the_last_row_of_its_table_and_names_the_attack(
    comparison: Comparison,
) -> None:
    lines = printed(comparison, 120).splitlines()
    worst = next(place for place, line in enumerate(lines) if line.startswith("worst case"))
    assert "dreambooth / lora" in lines[worst]
    assert "0.64 [0.60, 0.68]" in lines[worst] and "0.31 [0.26, 0.36]" in lines[worst]
    assert lines[worst - 1].startswith("mean over attacks")
    assert lines[worst + 1].startswith("lower is better for the subject · n = 30 · pocket-")
    assert "floor 0.02 · ceiling 0.90" in lines[worst + 1]


def test_a_narrow_terminal_loses_no_digit(comparison: Comparison) -> None:
    for width in (60, 80):
        text = printed(comparison, width)
        assert "…" not in text
        for part in ("0.64", "[0.60,", "textual-inversion", "same-seed", "[pocket"):
            assert part in text
        assert max(map(len, text.splitlines())) <= width
    assert "[0.60, 0.68]" in text and "[77, 90]" in text


def test_metrics_that_do_not_lead_are_details(comparison: Comparison) -> None:
    assert "brisque" not in printed(comparison, 120)
    assert "brisque" in printed(comparison, 120, verbose=True)


def followed_rows() -> list[dict]:
    """lora, looked at twice: exactly four times the steps."""
    curves = {"original": {25: 0.26, 50: 0.66}, "protected": {50: 0.1, 100: 0.26, 200: 0.66}}
    return [
        attack_row("lora", arm, score(value, spread=0.02), cell=f"lora-{arm}")
        | {"budget": steps / 50, "steps": steps}
        for arm, curve in curves.items()
        for steps, value in curve.items()
    ] + levels()


def test_work_factors_stand_first_and_fit_eighty_columns(tmp_path: Path) -> None:
    make_run(tmp_path, rows=followed_rows(), pictures=0)
    found = compare_runs(open_runs(tmp_path, []))
    lines = [line.strip() for line in printed(found, 80).splitlines() if line.strip()]
    assert lines[0].startswith("Steps at a likeness of 0.46 in dino")
    row = next(line for line in lines if line.startswith("lora"))
    assert row.split("  ")[0] == "lora"
    assert "about 35" in row and "about 141" in row and "4 [3.8, 4.3]" in row
    assert max(map(len, lines)) <= 80
    titles = [line for line in lines if line.startswith("lora, ")]
    assert [title[:6] for title in titles] == ["lora, ", "lora, "]  # 2 and 4 times, not 0.5
    assert "lora, 0.5 × the steps" in printed(found, 120, verbose=True)
    text = markdown(found)
    assert "| lora | about 35 | about 141 | 4 \\[3.8, 4.3\\] |" in text
    assert "**An attacker needs about 4 times as many steps (3.8–4.3)" in text


def test_csv_has_budgets_steps_and_the_limits_of_work_factors(tmp_path: Path) -> None:
    make_run(tmp_path, rows=followed_rows(), pictures=0)
    found = compare_runs(open_runs(tmp_path, []))
    rows = list(csv.DictReader(io.StringIO(comma_separated(found))))
    attacks = [row for row in rows if row["role"] == "attack"]
    assert [(row["budget"], row["protected_steps"]) for row in attacks] == [
        ("0.5", ""), ("1", "50.0"), ("2", "100.0"), ("4", "200.0"),
    ]  # fmt: skip
    assert all(float(row["work_factor_at_least"]) == pytest.approx(4) for row in attacks)
    assert all(row["work_factor_at_least"] == "" for row in rows if row["role"] != "attack")


def test_the_price_is_one_table_with_every_metric_named(comparison: Comparison) -> None:
    text = printed(comparison, 120)
    assert text.count("Utility: ") == 1 and text.count("Other subjects: ") == 1
    assert "fid[pocket]: class pictures  7.40 [6.40, 8.40]" in text
    assert "fid[pocket]: lower is better · n = 128 · pocket-extractor" in text
    assert "fewer than 2,048 pictures" in " ".join(text.split())


def test_stops_of_a_neighbour_before_its_own_steps_are_details(tmp_path: Path) -> None:
    early = [{**one, "budget": 0.5} for one in neighbour_rows()]
    make_run(tmp_path, rows=[*full_rows(), *early], pictures=0)
    found = compare_runs(open_runs(tmp_path, []))
    shown = printed(found, 120)
    assert "dino: person-5 " in shown and "person-5, 0.5 × the steps" not in shown
    assert "dino: person-5, 0.5 × the steps" in printed(found, 120, verbose=True)


def test_the_early_stop_that_the_worst_case_names_stands_in_the_table(tmp_path: Path) -> None:
    early = [{**one, "budget": 0.5} for one in both("lora", 0.5, 0.4)]
    make_run(tmp_path, rows=[*both("lora", 0.9, 0.2)[:1], *early, *levels()], pictures=0)
    lines = printed(compare_runs(open_runs(tmp_path, [])), 120).splitlines()
    assert [line for line in lines if line.startswith("lora, 0.5 × the steps")]
    assert [line for line in lines if line.startswith("worst case: lora, 0.5 × the steps")]


def test_colour_only_where_the_interval_excludes_zero(comparison: Comparison) -> None:
    lines = printed(comparison, 120, color=True, verbose=True).splitlines()
    green = "\x1b[32m"
    certain = [line for line in lines if "lora" in line and "−0.27" in line]
    uncertain = [line for line in lines if "+2.80" in line]
    assert certain and green in certain[0]
    assert uncertain and green not in uncertain[0] and "\x1b[31m" not in uncertain[0]


def test_a_single_attack_has_no_row_for_its_mean(tmp_path: Path) -> None:
    rows = [attack_row("lora", arm, score(0.4)) for arm in ("original", "protected")]
    make_run(tmp_path, rows=rows + levels())
    text = printed(compare_runs(open_runs(tmp_path, [])), 120)
    assert "mean over attacks" not in text and "worst case: lora" in text


def test_markdown_has_the_table_the_verdict_and_the_requirements(comparison: Comparison) -> None:
    text = markdown(comparison)
    assert "| lora | 0.58 \\[0.53, 0.63\\] | 0.31 \\[0.26, 0.36\\] |" in text
    assert "| **worst case: dreambooth / lora** |" in text
    assert "- ❌ `worst.dino<=0.3`: 0.31 (lora)" in text
    assert "- ✅ `mean.dino<0.5`" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("| ")}
    assert widths == {6, 5}  # with and without a share column


def test_two_runs_of_one_name_have_each_their_own_requirements(tmp_path: Path) -> None:
    for place, protected in (("a", 0.2), ("b", 0.5)):
        make_run(tmp_path / place, "demo", both("lora", 0.6, protected))
    runs = open_runs(tmp_path, ["a/demo", "b/demo"])
    comparison = compare_runs(runs, [parse("worst.dino<=0.3"), parse("worst.dino<=0.9")])
    first, second = markdown(comparison).split("### apdm: demo")[1:]
    assert "✅ `worst.dino<=0.3`: 0.20" in first and "0.50" not in first
    assert "❌ `worst.dino<=0.3`: 0.50" in second and second.count("worst.dino<=") == 2
    page = render_html(comparison, runs)
    assert page.count("<code>worst.dino&lt;=0.9</code>") == 2


def test_markdown_does_not_interpret_names(tmp_path: Path) -> None:
    rows = [attack_row("a|b*<i>", arm, score(0.4)) for arm in ("original", "protected")]
    make_run(tmp_path, rows=rows)
    text = markdown(compare_runs(open_runs(tmp_path, [])))
    assert "a\\|b\\*&lt;i&gt;" in text and "<i>" not in text


def test_csv_has_full_precision_and_one_row_per_line(comparison: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(comma_separated(comparison))))
    assert len(rows) == len(comparison.runs[0].lines)
    worst = next(row for row in rows if row["role"] == "worst" and row["metric"] == "dino")
    assert worst["protected_attack"] == "lora"
    assert float(worst["protected"]) == 0.31
    assert worst["backend_digest"].startswith("ab12cd34")
    same = next(row for row in rows if row["metric"] == "same-seed")
    assert same["original"] == "" and same["difference"] == ""


def test_variety_takes_no_side() -> None:
    line = Line(
        role="attack",
        label="lora",
        metric="diversity",
        shown_metric="diversity",
        better=None,
        difference=Interval(value=0.2, low=0.1, high=0.3),
    )
    variety = next(metric for metric in REPORTED if metric.metric == "diversity")
    assert verdict_on(line) == ""
    assert direction(line, variety) == "neither direction protects; near 0 is a collapse"
    assert verdict_on(line.model_copy(update={"role": "utility", "better": "higher"})) == "better"


def test_variety_takes_a_side_only_where_nobody_attacks() -> None:
    variety = score(0.4, "diversity")
    rows = [
        attack_row("lora", "protected", variety),
        row("utility", "protected", variety, topic="dogs"),
    ]
    lines, _ = compare_rows([ScoreRow.model_validate(one) for one in rows], METRICS)
    assert {line.role: line.better for line in lines} == {
        "attack": None, "mean": None, "utility": "higher"
    }  # fmt: skip


def test_numbers_in_words() -> None:
    assert [number(x) for x in (0.314, 12.34, 250.6, -0.001, -1.5, None)] == [
        "0.31", "12.3", "251", "0.00", "−1.50", "–",
    ]  # fmt: skip
    assert [signed(x) for x in (0.3, -0.3, 0.0)] == ["+0.30", "−0.30", "0.00"]
    assert [percent(x) for x in (0.534, -0.1, 1.0, -0.001)] == ["53 %", "−10 %", "100 %", "0 %"]
    assert with_interval(Interval(value=10.8, low=6.77, high=15.0)) == "10.8 [6.8, 15.0]"
    assert with_interval(Interval(value=0.5, low=0.4, high=0.6), percent) == "50 % [40, 60]"
    assert with_interval(Interval(value=0.5)) == "0.50"
