"""How matplotlib plots the charts of a report, as inline SVG.

Text stays text (readers and searches find it), colours are CSS variables (dark mode), and the same
numbers give the same bytes: no dates, fixed ids.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Stand-ins, replaced by variables once the SVG is written.
INK, MUTED, FAINT = "#010101", "#020202", "#030303"
ORIGINAL, PROTECTED, CARD = "#040404", "#050505", "#060606"
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    FAINT: "--rule",
    ORIGINAL: "--original",
    PROTECTED: "--protected",
    CARD: "--card",
}
ARM_COLOURS = {"original": ORIGINAL, "protected": PROTECTED}
WIDE, NARROW = 760, 350  # CSS pixels: one drawing for screens, one for phones
_UNITS = 72  # SVG units per inch: one unit is one CSS pixel


@dataclass(frozen=True)
class Chart:
    """Two drawings of one chart and what a screen reader says instead."""

    wide: str
    narrow: str
    description: str


@dataclass(frozen=True)
class Dot:
    """A value with its interval."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class WorkPanel:
    """An attack's curves: for each model (steps, similarity), ascending."""

    title: str
    curves: dict[str, list[tuple[float, Dot]]]


def paint_work(axes: Axes, panel: WorkPanel, likeness: float, colours: Mapping[str, str]) -> None:
    """Both curves with their 95 % bands over a logarithmic axis of steps.

    Args:
        colours: of "original", "protected", "rule" (the likeness) and "ink".
    """
    ticks = sorted({steps for points in panel.curves.values() for steps, _ in points})
    for arm, points in panel.curves.items():
        if not points:
            continue
        steps, dots = [x for x, _ in points], [dot for _, dot in points]
        if all(dot.low is not None and dot.high is not None for dot in dots):
            axes.fill_between(
                steps,
                [dot.low or 0.0 for dot in dots],
                [dot.high or 0.0 for dot in dots],
                color=colours[arm],
                alpha=0.15,
                lw=0,
            )
        marker = "o" if arm == "original" else "D"
        axes.plot(steps, [d.value for d in dots], color=colours[arm], marker=marker, ms=6, lw=2)
    axes.axhline(likeness, color=colours["rule"], lw=1, ls=(0, (3, 3)), zorder=0)
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    _plain(axes)


def work_chart(
    name: str,
    description: str,
    panels: Sequence[WorkPanel],
    likeness: float,
    axis: str,
) -> Chart:
    """A panel per attack; the dashed line is the likeness."""
    colours = {**ARM_COLOURS, "rule": MUTED, "ink": INK}

    def paint(figure: Figure, narrow: bool) -> None:
        columns = 1 if narrow else _columns(len(panels))
        rows = -(-len(panels) // columns)
        for place, panel in enumerate(panels):
            axes = figure.add_subplot(rows, columns, place + 1)
            paint_work(axes, panel, likeness, colours)
            axes.set_title(shorten(panel.title, 34), loc="left", fontsize=13, color=INK)
            axes.set_xlabel("steps of the attack")
            if place % columns == 0:
                axes.set_ylabel(axis)
            axes.grid(axis="y", color=FAINT, lw=0.8)

    rows = -(-len(panels) // _columns(len(panels)))
    return draw(name, description, paint, 250 * rows, 220 * len(panels))


def draw(
    name: str, description: str, paint: Callable[[Figure, bool], None], height: float,
    narrow_height: float | None = None,
) -> Chart:  # fmt: skip
    """Paint a figure of `height` CSS pixels at both widths; `paint` learns whether it is narrow."""
    return Chart(
        _svg(f"{name}-wide", paint, WIDE, height, narrow=False),
        _svg(f"{name}-narrow", paint, NARROW, narrow_height or height, narrow=True),
        description,
    )


def similarity_chart(
    name: str,
    description: str,
    rows: Sequence[tuple[str, Dot | None, Dot | None]],
    levels: Sequence[tuple[str, float]],
    axis: str,
) -> Chart:
    """A row per attack: original and protected as dots with intervals, joined by a line.

    `rows` are (label, original, protected); `levels` are vertical lines (floor, ceiling).
    """

    def paint(figure: Figure, narrow: bool) -> None:
        axes = figure.add_subplot()
        for place, (label, original, protected) in enumerate(rows):
            if original and protected:
                axes.plot(
                    [original.value, protected.value], [place, place], color=FAINT, lw=5,
                    solid_capstyle="round", zorder=1,
                )  # fmt: skip
            for dot, colour, marker in (
                (original, ORIGINAL, "o"),
                (protected, PROTECTED, "D"),
            ):
                _dot(axes, dot, place, colour, marker)
            if narrow:
                axes.text(
                    0,
                    place - 0.36,
                    shorten(label, 46),
                    transform=axes.get_yaxis_transform(),
                    ha="left",
                    va="center",
                    color=INK,
                    fontsize=13,
                    bbox={"facecolor": CARD, "edgecolor": "none", "pad": 1},
                )
        for label, value in levels:
            axes.axvline(value, color=MUTED, lw=1, ls=(0, (3, 3)), zorder=0)
            axes.text(value, -0.72, label, ha="center", va="bottom", color=MUTED, fontsize=12)
        axes.set_yticks(
            range(len(rows)), ["" if narrow else _two_lines(label) for label, *_ in rows]
        )
        axes.set_ylim(len(rows) - 0.45, -0.7)
        axes.set_xlabel(axis)
        _plain(axes)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color=FAINT, lw=0.8)
        axes.spines["left"].set_visible(False)

    row_height = 46 if len(rows) > 1 else 60
    return draw(name, description, paint, 84 + row_height * len(rows), 84 + 54 * len(rows))


def curves_chart(
    name: str,
    description: str,
    panels: Sequence[tuple[str, Sequence[tuple[str, Sequence[Any], Sequence[Any]]]]],
    xlabel: str,
    ylabel: str = "",
) -> Chart:
    """Small panels of curves; a panel is (title, [(arm or series, steps, values), ...])."""

    def paint(figure: Figure, narrow: bool) -> None:
        columns = 1 if narrow else _columns(len(panels))
        rows = -(-len(panels) // columns)
        for place, (title, series) in enumerate(panels):
            axes = figure.add_subplot(rows, columns, place + 1)
            for label, steps, values in series:
                colour = ARM_COLOURS.get(label, INK)
                dashes = "-" if label != "original" else (0, (4, 2))
                axes.plot(steps, values, color=colour, lw=1.8, ls=dashes)
            axes.set_title(_two_lines(title), loc="left", fontsize=13, color=INK)
            axes.set_xlabel(xlabel)
            if place % columns == 0 and ylabel:
                axes.set_ylabel(ylabel)
            _plain(axes)
            axes.grid(axis="y", color=FAINT, lw=0.8)

    rows = -(-len(panels) // _columns(len(panels)))
    return draw(name, description, paint, 210 * rows, 185 * len(panels))


def rounds_chart(
    name: str, description: str, series: Sequence[tuple[str, Sequence[int], Sequence[Dot]]],
    axis: str,
) -> Chart:  # fmt: skip
    """Similarity after every round of an attack that goes on, one curve per arm."""

    def paint(figure: Figure, narrow: bool) -> None:
        del narrow
        axes = figure.add_subplot()
        for arm, rounds, dots in series:
            colour = ARM_COLOURS[arm]
            known = [dot for dot in dots if dot.low is not None and dot.high is not None]
            if len(known) == len(dots):
                lows = [dot.low or 0.0 for dot in dots]
                highs = [dot.high or 0.0 for dot in dots]
                axes.fill_between(rounds, lows, highs, color=colour, alpha=0.15, lw=0)
            marker = "o" if arm == "original" else "D"
            axes.plot(rounds, [dot.value for dot in dots], color=colour, marker=marker, lw=1.8)
        axes.set_xticks(sorted({number for _, rounds, _ in series for number in rounds}))
        axes.set_xlabel("round of personalization")
        axes.set_ylabel(axis)
        _plain(axes)
        axes.grid(axis="y", color=FAINT, lw=0.8)

    return draw(name, description, paint, 260)


def shorten(text: str, longest: int) -> str:
    """`text`, cut off with an ellipsis where it is too long."""
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


def _columns(panels: int) -> int:
    return 2 if panels in (2, 4) else min(3, panels)


def _two_lines(label: str) -> str:
    return "\n".join(textwrap.wrap(label, 28, max_lines=2, placeholder="…"))


def _dot(axes: Axes, dot: Dot | None, place: float, colour: str, marker: str) -> None:
    if dot is None:
        return
    if dot.low is not None and dot.high is not None:
        axes.plot([dot.low, dot.high], [place, place], color=colour, lw=2, zorder=2)
        for end in (dot.low, dot.high):
            axes.plot([end, end], [place - 0.09, place + 0.09], color=colour, lw=2, zorder=2)
    axes.plot([dot.value], [place], marker=marker, ms=9, color=colour, zorder=3)


def _plain(axes: Axes) -> None:
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _svg(
    name: str, paint: Callable[[Figure, bool], None], width: float, height: float, *, narrow: bool
) -> str:
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "svg.id": name,
        "text.parse_math": False,  # a "$" in an attack's name is a dollar
        "font.size": 13,
        "axes.labelsize": 12,
        "axes.unicode_minus": True,
        "text.color": INK,
        "axes.labelcolor": MUTED,
        "axes.edgecolor": MUTED,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelsize": 12,
        "ytick.labelcolor": INK,
        "ytick.labelsize": 12,
        "axes.linewidth": 0.8,
    }
    with matplotlib.rc_context(settings):
        figure = Figure(
            figsize=(width / _UNITS, height / _UNITS), layout="constrained", facecolor="none"
        )
        paint(figure, narrow)
        for axes in figure.axes:
            axes.set_facecolor("none")
        buffer = io.StringIO()
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    return _for_page(buffer.getvalue(), name)


def _for_page(svg: str, name: str) -> str:
    """Only the <svg> element, without metadata and style sheet of its own; scales with the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    # Ids of two charts on one page must differ, groups have plain ones such as "axes_1".
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"(font(?:-family)?: [^;\"]*?)'DejaVu Sans'[^;\"]*", r"\g<1>inherit", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    svg = re.sub(
        r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', svg
    )
    return re.sub(r"\n\s*", "\n", svg).strip()
