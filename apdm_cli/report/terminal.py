"""The comparison in a terminal: a table per metric of the attacks, then one for the price."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from apdm_cli.report.schema import Comparison, Line, RunComparison
from apdm_cli.report.table import SUMMARIES, Block, blocks, caption_of, cells, headings
from apdm_cli.report.words import verdict_on

STYLES = {"better": "green", "worse": "red", "": ""}
_ROOMY = 108  # columns that a row with four intervals and a long name takes


def rich_tables(comparison: Comparison, width: int) -> Group:
    """For a terminal of `width` columns. Colour only where an interval excludes zero."""
    parts: list[Table | Text] = []
    for run in comparison.runs:
        if len(comparison.runs) > 1:
            parts.append(Text(f"\n{run.name} ({run.subject.name})", style="bold"))
        found = list(blocks(run))
        for block in found:
            if block.lines[0].role == "attack":
                parts += [Text(), _attack_table(run, block, width)]
        for title, roles in (
            ("Utility: what it cost everybody else", ("utility",)),
            ("Other subjects: can they still be taught?", ("neighbour", "neighbours")),
        ):
            price = [block for block in found if block.lines[0].role in roles]
            if price:
                parts += [Text(), _price_table(title, price, width)]
    return Group(*parts)


def _attack_table(run: RunComparison, block: Block, width: int) -> Table:
    table = _table(block.title, caption_of(run, block), headings(block))
    for line in block.lines:
        if line.role == "worst":
            table.add_section()
        _add(table, line, cells(line, block.share), width)
    return table


def _price_table(title: str, found: Sequence[Block], width: int) -> Table:
    """All metrics in one table; what each is, its n and its extractor in the lines below it."""
    share = next((block.share for block in found if block.share), "")
    notes = [f"{block.lines[0].shown_metric}: {block.note}" for block in found]
    columns = ["", "original", "protected", "difference", *([share] if share else [])]
    table = _table(title, "\n".join(notes), columns)
    for block in found:
        table.add_section()
        for line in block.lines:
            name, *values = cells(line, share)
            _add(table, line, [f"{line.shown_metric}: {name}", *values], width)
    return table


def _table(title: str, caption: str, columns: Sequence[str]) -> Table:
    table = Table(
        title=escape(title),
        title_justify="left",
        title_style="bold",
        caption=escape(caption),
        caption_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for heading in columns:
        table.add_column(heading, justify="left" if not heading else "right")
    return table


def _add(table: Table, line: Line, texts: Sequence[str], width: int) -> None:
    name, *values = texts
    if width < _ROOMY:  # the interval below its value, instead of broken anywhere
        values = [value.replace(" [", "\n[") for value in values]
    shown = [Text(value) for value in values]
    shown[2].stylize(STYLES[verdict_on(line)])
    table.add_row(Text(name, style="bold" if line.role in SUMMARIES else ""), *shown)
