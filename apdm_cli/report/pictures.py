"""The pictures that sheet and report show: chosen by number, never by looks; and the sheet."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from PIL.ImageFont import FreeTypeFont

from apdm_cli.diffusion.photo_decoding import decode_picture, square
from apdm_cli.diffusion.photo_files import SUFFIXES
from apdm_cli.errors import ApdmError
from apdm_cli.report.evaluated import EvaluatedRun
from apdm_cli.report.schema import Line, RunComparison
from apdm_cli.report.verdict import primary
from apdm_cli.report.words import percent, with_interval

TILE = 112
GAP = 4
MARGIN = 28
GUTTER = 26  # between the arms
CAPTION = 26
LABEL_WIDTH = 190

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
    shown = {
        arm: tuple(_thumbnail(folders[arm] / n, side, run.name) for n in numbers) for arm in files
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
    wanted = {str(file["sha256"]): str(file["name"]) for file in photos.get("files") or []}
    found: dict[str, Image.Image] = {}
    for source in photos.get("sources") or []:
        for file in _files(Path(source)):
            content = file.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            if digest in wanted and digest not in found:
                found[digest] = square(decode_picture(content, file.name), side)
    missing = [name for digest, name in wanted.items() if digest not in found]
    if missing:
        raise ApdmError(
            f"--include-photos: {', '.join(missing[:3])} {'is' if len(missing) == 1 else 'are'} "
            "no longer where the run read them, or changed since",
            "Put the photos back, or leave --include-photos out.",
        )
    return [found[digest] for digest in wanted]


def _files(source: Path) -> list[Path]:
    files = [source] if source.is_file() else sorted(source.glob("*"))
    return [file for file in files if file.is_file() and file.suffix.lower() in SUFFIXES]


def _numbered(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(file.name for file in folder.iterdir() if _NUMBERED.fullmatch(file.name))


def _thumbnail(file: Path, side: int, run: str) -> Image.Image:
    try:
        with Image.open(file, formats=("PNG",)) as picture:
            shown = picture.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise ApdmError(
            f"{file} is damaged ({error})",
            f"Run apdm evaluate {run} again: it draws what is damaged once more.",
        ) from error
    shown.thumbnail((side, side), Image.Resampling.LANCZOS)
    return shown


@dataclass(frozen=True)
class SheetRow:
    """One row: its pictures, and a line of numbers under its title and beside each arm."""

    pair: Pair
    note: str
    original_note: str = ""
    protected_note: str = ""

    def prefixed(self, name: str) -> SheetRow:
        """The same row with `name` before its title."""
        return replace(self, pair=replace(self.pair, title=f"{name}: {self.pair.title}"))


def contact_sheet(
    title: str, subtitle: str, rows: Sequence[SheetRow], photos: Sequence[Image.Image] = ()
) -> Image.Image:
    """Draw the sheet, RGB. `photos` (thumbnails), when given, are its first column."""
    columns = max((len(_any_arm(row.pair)) for row in rows), default=1)
    block = columns * (TILE + GAP) - GAP
    photo_width = TILE + GUTTER if photos else 0
    left = MARGIN + photo_width
    first, second = left + LABEL_WIDTH, left + LABEL_WIDTH + block + GUTTER
    width = second + block + MARGIN
    about = _wrap(subtitle, width - 2 * MARGIN, _font(14))
    top = MARGIN + 66 + 20 * (about.count("\n") + 1)
    row_height = TILE + CAPTION + 14
    photo_height = len(photos) * (TILE + GAP)
    height = top + max(len(rows) * row_height, photo_height) + MARGIN // 2
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN - 6), title, INK, _font(22, bold=True))
    draw.multiline_text((MARGIN, MARGIN + 26), about, MUTED, _font(14), spacing=5)
    for place, text, colour in (
        (first, "original model", ORIGINAL),
        (second, "protected model", PROTECTED),
    ):
        draw.text((place, top - 26), text, colour, _font(15, bold=True))
    if photos:
        draw.text((MARGIN, top - 26), "photos", INK, _font(15, bold=True))
        for number, photo in enumerate(photos):
            _paste(sheet, photo, (MARGIN, top + number * (TILE + GAP)))
    for number, row in enumerate(rows):
        _row(sheet, draw, row, (left, first, second), top + number * row_height)
    return sheet


def sheet_rows(run: EvaluatedRun, compared: RunComparison, count: int = 6) -> list[SheetRow]:
    """A row per attack with its similarity, then one per topic of class pictures."""
    rows = []
    for line in attack_lines(compared.lines):
        pair = pair_of(run, line, count, TILE)
        if pair is None:
            continue
        scored = _similarity(compared, line.title)
        cut = f"{percent(scored.cut.value)} of the gain is gone" if scored and scored.cut else ""
        rows.append(SheetRow(pair, cut, _note(scored, "original"), _note(scored, "protected")))
    for topic in compared.class_pictures:
        pair = pair_of(run, topic, count, TILE)
        if pair is not None:
            rows.append(SheetRow(pair, "no attack, same seeds", "before", "after"))
    return rows


def _similarity(compared: RunComparison, label: str) -> Line | None:
    lines = [line for line in compared.of("attack") if line.title == label]
    return primary(lines, compared.metrics, "attack") or (lines[0] if lines else None)


def _note(line: Line | None, arm: str) -> str:
    estimate = getattr(line, arm) if line else None
    return f"{line.shown_metric} {with_interval(estimate)}" if line and estimate else ""


def _row(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    row: SheetRow,
    places: tuple[int, int, int],
    top: int,
) -> None:
    left, first, second = places
    draw.multiline_text(
        (left, top + 2), _wrap(row.pair.title, LABEL_WIDTH - 16, _font(15, True)), INK,
        _font(15, True), spacing=3,
    )  # fmt: skip
    draw.multiline_text(
        (left, top + TILE - 4), _wrap(row.note, LABEL_WIDTH - 16, _font(12)), MUTED, _font(12),
        anchor="ld", spacing=3,
    )  # fmt: skip
    for place, pictures, note, colour in (
        (first, row.pair.original, row.original_note, ORIGINAL),
        (second, row.pair.protected, row.protected_note, PROTECTED),
    ):
        for number, picture in enumerate(pictures):
            _paste(sheet, picture, (place + number * (TILE + GAP), top))
        if not pictures:
            draw.text((place, top + TILE // 2), "not drawn", MUTED, _font(13), anchor="lm")
        draw.text((place, top + TILE + 5), note, colour, _font(13))


def _any_arm(pair: Pair) -> Sequence[Image.Image]:
    return pair.original or pair.protected


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
