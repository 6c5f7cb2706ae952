"""The comparison's tables: their rows, and how a terminal, Markdown and CSV show them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from apdm_cli.report.schema import Comparison, Estimate, Interval, Line, RunComparison
from apdm_cli.report.words import (
    direction,
    number,
    percent,
    signed,
    verdict_on,
    with_interval,
)
from apdm_cli.visible import spreadsheet_cell, visible

# Names come from folders and plugins: they must not become formatting.
_MARKDOWN = {character: f"\\{character}" for character in "\\|*_`[]"}
_MARKDOWN |= {"<": "&lt;", ">": "&gt;", "\n": " "}
STYLES = {"better": "green", "worse": "red", "": ""}
_ROOMY = 108  # columns that a row with four intervals and a long name takes
SUMMARIES = ("mean", "worst", "neighbours")


@dataclass(frozen=True)
class Block:
    """One table: a metric over attacks, over utility, or over neighbours.

    Attributes:
        title: what the numbers are; note: n, extractor, direction.
        share: heading of the last column ("cut", "kept"), or "" when no row has one.
    """

    title: str
    note: str
    lines: tuple[Line, ...]
    share: str


def blocks(run: RunComparison) -> Iterator[Block]:
    """The tables of one run, in order: attacks by metric, utility, neighbours."""
    for roles, what in (
        (("attack", "mean", "worst"), ""),
        (("utility",), "Utility: "),
        (("neighbour", "neighbours"), "Other subjects: "),
    ):
        metrics = dict.fromkeys(line.metric for line in run.lines if line.role in roles)
        for metric in map(run.metric, metrics):
            lines = [one for one in run.lines if one.role in roles and one.metric == metric.metric]
            single = sum(line.role in ("attack", "neighbour") for line in lines) == 1
            # With a single attack its mean says nothing new; its worst case stays, for the eye.
            lines = [line for line in lines if not (single and line.role in ("mean", "neighbours"))]
            note = " · ".join(
                [
                    direction(lines[0], metric),
                    f"n = {_counts(lines)}",
                    f"{metric.backend} {metric.digest[:8]}",
                ]
            )
            if metric.n < metric.biased_below:
                note += f" · fewer than {metric.biased_below:,} pictures: only for equal n"
            share = "cut" if any(line.cut for line in lines) else ""
            share = "kept" if any(line.kept for line in lines) else share
            title = what + metric.heading(lines[0].shown_metric)
            yield Block(title, note, tuple(lines), share)


def levels(run: RunComparison, metric: str) -> list[tuple[str, Estimate]]:
    """Floor and ceiling of a metric, where they were measured."""
    return [
        (role, line.original)
        for role in ("floor", "ceiling")
        for line in run.of(role, metric)
        if line.original
    ]


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
                parts += [Text(), _price_rich_table(title, price, width)]
    return Group(*parts)


def markdown(comparison: Comparison) -> str:
    """For pull requests and job summaries: GitHub's tables, the worst case in bold."""
    out = []
    for run in comparison.runs:
        out += [f"### apdm: {_md(run.name)}", "", _md(run.verdict), ""]
        for block in blocks(run):
            out += [f"**{_md(block.title)}**", "", _md_row(headings(block))]
            out.append(_md_row([":--"] + ["--:"] * (len(headings(block)) - 1)))
            for line in block.lines:
                shown = [_md(cell) for cell in cells(line, block.share)]
                worst = line.role == "worst"
                out.append(_md_row([f"**{cell}**" for cell in shown] if worst else shown))
            out += ["", f"<sub>{_md(caption_of(run, block))}</sub>", ""]
        wanted = [held for held in comparison.requirements if held.run == run.name]
        out += [
            f"- {'✅' if one.held else '❌'} `{one.text}`: {_md(one.says)}" for one in wanted
        ] + ([""] if wanted else [])
        out += [f"- {_md(problem.what)}: {_md(problem.why)}" for problem in run.problems]
    out += [f"> {_md(warning)}" for warning in comparison.warnings]
    return "\n".join(out).rstrip() + "\n"


def comma_separated(comparison: Comparison) -> str:
    """For spreadsheets: one row per line and arm-independent quantity, full precision."""
    quantities = ("original", "protected", "difference", "cut", "kept")
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        ["run", "subject", "role", "label", "metric", "better", "backend", "backend_digest",
         "n", "skipped", "seeds", "original_attack", "protected_attack",
         *(f"{name}{end}" for name in quantities for end in ("", "_low", "_high"))]
    )  # fmt: skip
    for run in comparison.runs:
        backends = {metric.metric: metric for metric in run.metrics}
        for line in run.lines:
            known = line.protected or line.original
            writer.writerow(
                [*map(spreadsheet_cell, (
                     run.name, run.subject.name, line.role, line.label, line.metric,
                     line.better or "", backends[line.metric].backend,
                     backends[line.metric].digest)),
                 known.n if known else "",
                 sum(arm.skipped for arm in (line.original, line.protected) if arm),
                 " ".join(map(str, known.seeds)) if known else "",
                 spreadsheet_cell(line.reached_by.get("original", "")),
                 spreadsheet_cell(line.reached_by.get("protected", "")),
                 *(end for name in quantities for end in _three(getattr(line, name)))]
            )  # fmt: skip
    return buffer.getvalue()


def headings(block: Block) -> list[str]:
    return ["", "original", "protected", "difference", *([block.share] if block.share else [])]


def cells(line: Line, share: str) -> list[str]:
    """The texts of one row: name, original, protected, difference and, with `share`, that."""
    shown = [
        name_of(line),
        with_interval(line.original),
        with_interval(line.protected),
        with_interval(line.difference, signed),
    ]
    if share:
        shown.append(with_interval(line.kept if share == "kept" else line.cut, percent))
    return shown


def name_of(line: Line) -> str:
    """The row's name; the worst case names the attack that reached it, in each arm."""
    reached = list(dict.fromkeys(line.reached_by.values()))
    return f"{line.label}: {' / '.join(reached)}" if reached else line.label


def caption_of(run: RunComparison, block: Block) -> str:
    """What stands below a table: its note, floor and ceiling, how many pictures were skipped."""
    found = [
        f"{role} {number(level.value)}"
        for role, level in levels(run, block.lines[0].metric)
        if block.lines[0].role == "attack"
    ]
    skipped = sum(
        arm.skipped
        for line in block.lines
        if line.role not in SUMMARIES
        for arm in (line.original, line.protected)
        if arm
    )
    return " · ".join([block.note, *found, *([f"{skipped} skipped"] if skipped else [])])


def _attack_table(run: RunComparison, block: Block, width: int) -> Table:
    table = _rich_table(block.title, caption_of(run, block), headings(block))
    for line in block.lines:
        if line.role == "worst":
            table.add_section()
        _add_row(table, line, cells(line, block.share), width)
    return table


def _price_rich_table(title: str, found: Sequence[Block], width: int) -> Table:
    """All metrics in one table; what each is, its n and its extractor in the lines below it."""
    share = next((block.share for block in found if block.share), "")
    notes = [f"{block.lines[0].shown_metric}: {block.note}" for block in found]
    columns = ["", "original", "protected", "difference", *([share] if share else [])]
    table = _rich_table(title, "\n".join(notes), columns)
    for block in found:
        table.add_section()
        for line in block.lines:
            name, *values = cells(line, share)
            _add_row(table, line, [f"{line.shown_metric}: {name}", *values], width)
    return table


def _rich_table(title: str, caption: str, columns: Sequence[str]) -> Table:
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


def _add_row(table: Table, line: Line, texts: Sequence[str], width: int) -> None:
    name, *values = texts
    if width < _ROOMY:  # the interval below its value, instead of broken anywhere
        values = [value.replace(" [", "\n[") for value in values]
    shown = [Text(value) for value in values]
    shown[2].stylize(STYLES[verdict_on(line)])
    table.add_row(Text(name, style="bold" if line.role in SUMMARIES else ""), *shown)


def _counts(lines: Sequence[Line]) -> str:
    counts = sorted({arm.n + 0 for line in lines for arm in (line.original, line.protected) if arm})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]}–{counts[-1]}"


def _three(interval: Interval | None) -> list[float | str | None]:
    return ["", "", ""] if interval is None else [interval.value, interval.low, interval.high]


def _md(text: str) -> str:
    return "".join(_MARKDOWN.get(character, character) for character in visible(text))


def _md_row(values: Sequence[str]) -> str:
    return f"| {' | '.join(values)} |"
