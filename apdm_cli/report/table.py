"""The comparison's tables: their rows, and how a terminal, Markdown and CSV show them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from apdm_cli.report.arms import words_for
from apdm_cli.report.schema import (
    Comparison,
    Estimate,
    Interval,
    Limits,
    Line,
    RunComparison,
    WorkFactor,
)
from apdm_cli.report.verdict import aimed_at, followed, primary
from apdm_cli.report.words import (
    direction,
    number,
    percent,
    signed,
    steps_in_words,
    verdict_on,
    with_interval,
    work_in_words,
)
from apdm_cli.visible import spreadsheet_cell, visible

# Names come from folders and plugins: they must not become formatting.
_MARKDOWN = {character: f"\\{character}" for character in "\\|*_`[]"}
_MARKDOWN |= {"<": "&lt;", ">": "&gt;", "\n": " "}
STYLES = {"better": "green", "worse": "red", "": ""}
_ROOMY = 108  # columns that a row with four intervals and a long name takes
_NARROW = 72  # columns below which a metric and its extractor don't fit beside two intervals
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
            single = len({x.label for x in lines if x.role in ("attack", "neighbour")}) == 1
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


WORK_HEADINGS = ["attack", "original", "protected", "work factor"]


def work_title(run: RunComparison) -> str:
    """`Steps to a likeness of 0.45 in dino, halfway between floor and ceiling`."""
    return f"Steps {aimed_at(run.likeness)}" if run.likeness else "Steps to a likeness"


def work_rows(run: RunComparison) -> list[list[str]]:
    """A row for every attack that was looked at more than once, as texts."""
    return [
        [
            one.label,
            steps_in_words(one.original),
            steps_in_words(one.protected),
            work_in_words(one) if one.factor else "not counted",
        ]
        for one in followed(run.work)
    ]


def rich_tables(comparison: Comparison, width: int, *, verbose: bool = False) -> Group:
    """For a terminal of `width` columns. Colour only where an interval excludes zero.

    Args:
        verbose: also the attacks' tables under metrics that do not lead, and stops of attacks and
            neighbours before their own steps.
    """
    parts: list[Table | Text] = []
    for run in comparison.runs:
        if len(comparison.runs) > 1:
            parts.append(Text(f"\n{run.name} ({run.subject.name})", style="bold"))
        found = list(blocks(run))
        if work_rows(run):
            parts += [Text(), _work_table(run)]
        worst = primary(run.lines, run.metrics, "worst")
        for block in found:
            leads = verbose or worst is None or block.lines[0].metric == worst.metric
            if block.lines[0].role == "attack" and leads:
                block = block if verbose else _without_early(block)
                parts += [Text(), _attack_table(run, block, width)]
        nothing = words_for(run.protects).unchanged
        cost = f": nothing, {nothing}" if nothing else ": what it cost everybody else"
        for title, roles in (
            (f"Utility{cost}", ("utility",)),
            ("Other subjects: can they still be taught?", ("neighbour", "neighbours")),
        ):
            price = [
                block if verbose else _without_early(block)
                for block in found
                if block.lines[0].role in roles
            ]
            if price:
                parts += [Text(), _price_rich_table(title, price, width)]
    return Group(*parts)


def markdown(comparison: Comparison) -> str:
    """For pull requests and job summaries: GitHub's tables, the worst case in bold."""
    out = []
    for place, run in enumerate(comparison.runs):
        out += [
            f"### apdm: {_md(run.name)}",
            "",
            f"**{_md(run.answer)}**",
            "",
            _md(run.verdict),
            "",
        ]
        if work_rows(run):
            out += [f"**{_md(work_title(run))}**", "", _md_row(WORK_HEADINGS), "|---|--:|--:|--:|"]
            out += [_md_row([_md(text) for text in row]) for row in work_rows(run)]
            out += [""]
        for block in blocks(run):
            out += [f"**{_md(block.title)}**", "", _md_row(headings(block))]
            out.append(_md_row([":--"] + ["--:"] * (len(headings(block)) - 1)))
            for line in block.lines:
                shown = [_md(cell) for cell in cells(line, block.share)]
                worst = line.role == "worst"
                out.append(_md_row([f"**{cell}**" for cell in shown] if worst else shown))
            out += ["", f"<sub>{_md(caption_of(run, block))}</sub>", ""]
        wanted = comparison.required(place)
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
         *(f"{name}{end}" for name in quantities for end in ("", "_low", "_high")),
         "budget", "original_steps", "protected_steps",
         *(f"work_factor{end}" for end in _WORK_COLUMNS)]
    )  # fmt: skip
    for run in comparison.runs:
        backends = {metric.metric: metric for metric in run.metrics}
        aim = run.likeness.metric if run.likeness else None
        works = {(one.label, aim): one for one in followed(run.work)}
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
                 *(end for name in quantities for end in _three(getattr(line, name))),
                 f"{line.budget:g}",
                 *(_empty(arm.steps if arm else None) for arm in (line.original, line.protected)),
                 *_work_columns(line, works)]
            )  # fmt: skip
    return buffer.getvalue()


_WORK_COLUMNS = ("_at_least", "_at_most", "_low", "_high")


def _work_columns(
    line: Line, works: Mapping[tuple[str, str | None], WorkFactor]
) -> list[float | str]:
    """The limits of an attack's work factor, then its interval's; empty where there is none."""
    one = works.get((line.label, line.metric)) if line.role == "attack" else None
    limits = (one.factor, one.interval) if one else (None, None)
    return [end for known in limits for end in _both(known)]


def _both(limits: Limits | None) -> list[float | str]:
    return ["", ""] if limits is None else [limits.low, _empty(limits.high)]


def _empty(value: float | None) -> float | str:
    return "" if value is None else value


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
    return f"{line.label}: {' / '.join(reached)}" if reached else line.title


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


def _without_early(block: Block) -> Block:
    """Without stops before the own steps of an attack or a neighbour: they are for the curve.

    The worst case may be such a stop, which stays.
    """
    own = {line.label for line in block.lines if line.role not in SUMMARIES and line.budget >= 1}
    named = {title for line in block.lines for title in line.reached_by.values()}
    kept = [
        line
        for line in block.lines
        if line.budget >= 1 or line.label not in own or line.title in named
    ]
    return replace(block, lines=tuple(kept))


def _work_table(run: RunComparison) -> Table:
    reasons = [f"{one.label}: {one.why_not}" for one in followed(run.work) if one.why_not]
    caption = "95 % intervals in brackets; limits where the steps looked at allow no more"
    table = _rich_table(work_title(run), "\n".join([caption, *reasons]), ["", *WORK_HEADINGS[1:]])
    for name, *texts in work_rows(run):
        table.add_row(Text(name), *map(Text, texts))
    return table


def _attack_table(run: RunComparison, block: Block, width: int) -> Table:
    columns = headings(block)
    table = _rich_table(block.title, caption_of(run, block), _fitting(columns, width))
    for line in block.lines:
        if line.role == "worst":
            table.add_section()
        _add_row(table, line, cells(line, block.share), width)
    return table


def _fitting(texts: Sequence[str], width: int) -> list[str]:
    """A row or its headings; on a narrow terminal no difference where a share says it."""
    return [*texts[:3], *texts[4:]] if width < _NARROW and len(texts) > 4 else list(texts)


def _price_rich_table(title: str, found: Sequence[Block], width: int) -> Table:
    """All metrics in one table; what each is, its n and its extractor in the lines below it."""
    share = next((block.share for block in found if block.share), "")
    notes = [f"{block.lines[0].shown_metric}: {block.note}" for block in found]
    columns = ["", "original", "protected", "difference", *([share] if share else [])]
    table = _rich_table(title, "\n".join(notes), _fitting(columns, width))
    for block in found:
        table.add_section()
        for line in block.lines:
            name, *values = cells(line, share)
            metric = line.shown_metric
            if width < _NARROW:  # the extractor below its metric, instead of cut off
                metric = metric.replace("[", "\n[")
            _add_row(table, line, [f"{metric}: {name}", *values], width)
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
    name, *values = _fitting(texts, width)
    if width < _ROOMY:  # the interval below its value, instead of broken anywhere
        values = [value.replace(" [", "\n[") for value in values]
    shown = [Text(value) for value in values]
    shown[2 if len(values) == len(texts) - 1 else 1].stylize(STYLES[verdict_on(line)])
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
