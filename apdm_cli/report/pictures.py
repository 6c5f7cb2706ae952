"""The pictures that sheet and report show: chosen by number, never by looks; and the sheet."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from PIL.ImageFont import FreeTypeFont

from apdm_cli.diffusion.photo_decoding import Crop, decode_picture, square
from apdm_cli.diffusion.photo_files import (
    PhotoFile,
    find_photos,
    hash_photo_files,
    read_content,
)
from apdm_cli.errors import ApdmError
from apdm_cli.report import charts
from apdm_cli.report.arms import words_for
from apdm_cli.report.command_words import evaluate_again
from apdm_cli.report.evaluated import EvaluatedRun
from apdm_cli.report.plots import paint_work
from apdm_cli.report.schema import Line, RunComparison
from apdm_cli.report.verdict import followed, primary, smallest
from apdm_cli.report.words import number, plain_steps, plural

TILE = 112
GAP = 4
MARGIN = 28
GUTTER = 26  # before the curve
LABEL_WIDTH = 220
TITLE_WIDTH = 38  # letters in a line above the curve
NARROWEST = 640  # pixels, of a sheet with few pictures or none

PAPER, INK, MUTED = "#ffffff", "#16181d", "#5b6270"
ORIGINAL, PROTECTED = "#b4531a", "#1f5fbf"

_NUMBERED = re.compile(r"\d+\.png")


@dataclass(frozen=True)
class Pair:
    """Pictures of the same seeds, both arms; one side is empty where that arm is missing."""

    title: str
    numbers: tuple[str, ...]
    original: tuple[Image.Image, ...]
    protected: tuple[Image.Image, ...]


def pair_of(run: EvaluatedRun, line: Line, count: int, side: int) -> Pair | None:
    """`count` pictures per arm of what `line` judges, RGB, at most `side` pixels; None without any.

    They are spread evenly over the pictures that every present arm has, so they cover all prompts.
    """
    folders = {
        arm: run.pictures(folder)
        for arm in ("original", "protected")
        if (folder := getattr(line.pictures, arm))
    }
    files = {arm: _numbered(folder) for arm, folder in folders.items()}
    files = {arm: names for arm, names in files.items() if names}
    if not files:
        return None
    shared = sorted(set.intersection(*map(set, files.values())))
    numbers = tuple(shared[index] for index in spread(len(shared), count))
    again = evaluate_again(run.run, run.scores)
    shown = {
        arm: tuple(_thumbnail(folders[arm] / n, side, again) for n in numbers) for arm in files
    }
    return Pair(line.title, numbers, shown.get("original", ()), shown.get("protected", ()))


def attack_lines(lines: Sequence[Line]) -> list[Line]:
    """One line per attack and budget, whatever the metric: whose pictures are shown, in order."""
    return list({line.title: line for line in reversed(lines) if line.role == "attack"}.values())[
        ::-1
    ]


def spread(total: int, count: int) -> list[int]:
    """`count` indices evenly over range(total), the first among them; all where there are fewer."""
    count = min(total, count)
    return [index * total // count for index in range(count)]


def subject_photos(manifest: dict[str, Any], side: int) -> list[Image.Image]:
    """The subject's photos as thumbnails, found again where `protect` read them.

    Raises `ApdmError` when one is gone or has changed since.
    """
    photos = (manifest.get("subject") or {}).get("photos") or {}
    files = photos.get("files") or []
    wanted = {str(file["sha256"]): str(file["name"]) for file in files}
    places = {str(file["sha256"]): float(file.get("at", 0.5)) for file in files}
    found: dict[str, Image.Image] = {}
    crop: Crop = "none" if photos.get("crop") == "none" else "center"
    for source in photos.get("sources") or []:
        for photo in _photos(Path(source)):
            if photo.sha256 in wanted and photo.sha256 not in found:
                picture = decode_picture(read_content(photo), photo.name)
                found[photo.sha256] = square(picture, side, crop, places[photo.sha256])
    missing = [name for digest, name in wanted.items() if digest not in found]
    if missing:
        raise ApdmError(
            f"--include-photos: {', '.join(missing[:3])} {'is' if len(missing) == 1 else 'are'} "
            "no longer where the run read them, or changed since",
            "Put the photos back, or leave --include-photos out.",
        )
    return [found[digest] for digest in wanted]


def _photos(source: Path) -> list[PhotoFile]:
    """What lies there now; nothing, where the folder is gone or empty."""
    try:
        return hash_photo_files(find_photos([source], ignore_unreadable=True).files)
    except ApdmError:
        return []


def _numbered(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(file.name for file in folder.iterdir() if _NUMBERED.fullmatch(file.name))


def _thumbnail(file: Path, side: int, again: str) -> Image.Image:
    try:
        with Image.open(file, formats=("PNG",)) as picture:
            shown = picture.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise ApdmError(
            f"{file} is damaged ({error})",
            f"Evaluate it again, which draws what is damaged once more: {again}",
        ) from error
    shown.thumbnail((side, side), Image.Resampling.LANCZOS)
    return shown


@dataclass(frozen=True)
class SheetRow:
    """One row of the sheet: whose pictures these are, in plain words, and the pictures.

    Attributes:
        arm: the model that drew them, for the colour; "" for photos.
    """

    caption: str
    note: str
    arm: str
    pictures: tuple[Image.Image, ...]


def contact_sheet(
    title: str,
    subtitle: str,
    rows: Sequence[SheetRow],
    curve: Image.Image | None = None,
) -> Image.Image:
    """Draw the sheet, RGB: captions on the left, pictures, and `curve` beside them."""
    columns = max((len(row.pictures) for row in rows), default=1)
    left = MARGIN + LABEL_WIDTH
    right = left + columns * (TILE + GAP) - GAP
    width = right + MARGIN + (curve.width + GUTTER if curve else 0)
    width = max(width, NARROWEST)
    about = _wrap(subtitle, width - 2 * MARGIN, _font(16))
    top = MARGIN + 48 + 23 * (about.count("\n") + 1)
    places = _places(rows, top)
    height = max([top, *(place + TILE for place in places)]) + MARGIN
    height = max(height, top + curve.height + MARGIN if curve else 0)
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN - 8), title, INK, _font(24, bold=True))
    draw.multiline_text((MARGIN, MARGIN + 30), about, INK, _font(16), spacing=6)
    for row, place in zip(rows, places, strict=True):
        _row(sheet, draw, row, left, place)
    if curve:
        sheet.paste(curve, (right + GUTTER, top))
    return sheet


def sheet_rows(
    run: EvaluatedRun, compared: RunComparison, count: int = 8, photos: Sequence[Image.Image] = ()
) -> list[SheetRow]:
    """The subject, what one attack makes of both models, and ordinary pictures of both.

    The attack is the one that the answer names; at its own steps, and as long as it was followed.
    Every row shows the same prompts and seeds, chosen by number.

    Args:
        photos: of the subject; a first row, where they are given.
    """
    rows = []
    subject = compared.subject
    if photos:
        caption = f"Photos of the {subject.class_noun}"
        rows.append(SheetRow(caption, "who is protected", "", tuple(photos[:count])))
    shown = _headline(compared)
    titles = words_for(compared.protects).titles
    for arm, who in ((arm, title.capitalize()) for arm, title in titles.items()):
        for place, line in enumerate(shown):
            pair = pair_of(run, line, count, TILE)
            if pair is None:
                continue
            if place == 0:
                caption = f"{who}, after the attack"
            else:
                caption = f"{who}, attacked {line.budget / shown[0].budget:g} × as long"
            pictures = pair.original if arm == "original" else pair.protected
            rows.append(SheetRow(caption, _note(compared, line, arm), arm, pictures))
    # Where photos are protected one model draws both.
    for topic in compared.class_pictures[:1] if compared.protects == "model" else ():
        pair = pair_of(run, topic, count, TILE)
        if pair is not None:
            what = plural(subject.class_noun) if subject.class_noun else topic.label
            rows += [
                SheetRow(f"Other {what}, original", "no attack", "original", pair.original),
                SheetRow(f"Other {what}, protected", "same seeds", "protected", pair.protected),
            ]
    return rows


def curve_picture(compared: RunComparison) -> Image.Image | None:
    """Likeness over steps of the attack that the sheet shows; None where it has one stop only."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = _headline(compared)
    if not shown or compared.likeness is None:
        return None
    panels = {panel.title: panel for panel in charts.work_panels(compared)}
    panel = panels.get(shown[0].label)
    if panel is None:
        return None
    figure = Figure(figsize=(4.4, 3.8), dpi=100, layout="constrained", facecolor=PAPER)
    axes = figure.add_subplot()
    colours = {"original": ORIGINAL, "protected": PROTECTED, "rule": MUTED}
    paint_work(axes, panel, compared.likeness.value, colours)
    ends = {arm: points[-1] for arm, points in panel.curves.items() if points}
    bottom, top = axes.get_ylim()
    under = named_below({arm: last.value for arm, (_, last) in ends.items()}, top - bottom)
    for arm, (steps, last) in ends.items():
        below = arm == under
        axes.annotate(
            words_for(compared.protects).titles[arm],
            (steps, last.value),
            xytext=(0, -9 if below else 9),
            textcoords="offset points",
            ha="right",
            va="top" if below else "baseline",
            color=colours[arm],
        )
    start = axes.get_xlim()[0]
    axes.text(start, compared.likeness.value, " a likeness", color=MUTED, va="bottom")
    title = textwrap.fill(f"How long {shown[0].label} takes", TITLE_WIDTH)
    axes.set_title(title, loc="left", fontsize=12)
    axes.set_xlabel("steps of the attack")
    axes.set_ylabel("likeness to the photos")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.frombuffer(
        "RGBA", canvas.get_width_height(), canvas.buffer_rgba(), "raw", "RGBA", 0, 1
    ).convert("RGB")


def named_below(ends: Mapping[str, float], height: float) -> str | None:
    """The curve whose name goes under its end, because two names above would lie on each other.

    Args:
        ends: where the curves end; height: of the axis, in the same measure.
    """
    if len(ends) < 2 or max(ends.values()) - min(ends.values()) > height / 8:
        return None
    return min(ends, key=lambda name: ends[name])


def _headline(compared: RunComparison) -> list[Line]:
    """The attack that the answer names: its own steps, and the longest, where that is longer."""
    lines = attack_lines(compared.lines)
    cheapest = smallest(followed(compared.work))
    worst = primary(compared.lines, compared.metrics, "worst")
    reached = worst.reached_by.get("protected") if worst else None
    named = [one for one in lines if cheapest and one.label == cheapest.label]
    named = named or [one for one in lines if reached in (one.title, one.label)] or lines
    of_attack = [line for line in lines if named and line.label == named[0].label]
    if not of_attack:
        return []
    own = min(of_attack, key=lambda line: abs(math.log(line.budget)))
    longest = max(of_attack, key=lambda line: line.budget)
    return [own] if longest.budget <= own.budget else [own, longest]


def _note(compared: RunComparison, line: Line, arm: str) -> str:
    """`lora, 50 steps, likeness 0.76`."""
    lines = [one for one in compared.of("attack") if one.title == line.title]
    scored = primary(lines, compared.metrics, "attack") or (lines[0] if lines else None)
    estimate = getattr(scored, arm) if scored else None
    if scored is None or estimate is None:
        return line.label
    steps = [plain_steps(estimate.steps)] if estimate.steps else []
    leads = compared.metric(scored.metric).leads
    value = f"{'likeness' if leads else scored.shown_metric} {number(estimate.value)}"
    return ", ".join([line.label, *steps, value])


def _places(rows: Sequence[SheetRow], top: int) -> list[int]:
    """The upper edge of every row; a gap where another model or photos begin."""
    places = []
    for place, row in enumerate(rows):
        if place:
            before = rows[place - 1]
            same = before.arm == row.arm and (before.note == "no attack") == (
                row.note == "no attack"
            )
            top += TILE + (GAP if same else 3 * GAP)
        places.append(top)
    return places


def _row(sheet: Image.Image, draw: ImageDraw.ImageDraw, row: SheetRow, left: int, top: int) -> None:
    colour = {"original": ORIGINAL, "protected": PROTECTED}.get(row.arm, INK)
    draw.rectangle((MARGIN, top, MARGIN + 4, top + TILE - 1), colour)
    caption = _wrap(row.caption, LABEL_WIDTH - 30, _font(16, True))
    place = (MARGIN + 14, top + 6)
    draw.multiline_text(place, caption, colour, _font(16, True), spacing=4)
    below = top + 12 + 22 * (caption.count("\n") + 1)
    note = _wrap(row.note, LABEL_WIDTH - 30, _font(13))
    draw.multiline_text((MARGIN + 14, below), note, MUTED, _font(13), spacing=3)
    for column, picture in enumerate(row.pictures):
        _paste(sheet, picture, (left + column * (TILE + GAP), top))
    if not row.pictures:
        draw.text((left, top + TILE // 2), "not drawn", MUTED, _font(14), anchor="lm")


def _paste(sheet: Image.Image, picture: Image.Image, place: tuple[int, int]) -> None:
    smooth = picture.resize((TILE, TILE), Image.Resampling.LANCZOS)
    sheet.paste(smooth, place)


def _font(size: int, bold: bool = False) -> FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along: the same on every system, with θ and ≤."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)), size)


def _wrap(text: str, width: int, font: FreeTypeFont) -> str:
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(_fit(word, width, font))
    return "\n".join(lines)


def _fit(text: str, width: int, font: FreeTypeFont) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
