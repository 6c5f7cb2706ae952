"""The files of a comparison: comparison.json, contact_sheet.png, report.html."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from apdm_cli.report.contact_sheet import TILE, SheetRow, contact_sheet, sheet_rows
from apdm_cli.report.html import render_html
from apdm_cli.report.pictures import subject_photos
from apdm_cli.report.schema import Comparison
from apdm_cli.report.scores import EvaluatedRun
from apdm_cli.runs.atomic import write_bytes_atomic, writing_to
from apdm_cli.runs.names import slug

COMPARISONS = "_comparisons"  # below the root: comparisons of several runs belong to none of them


@dataclass(frozen=True)
class Published:
    """Where the files lie."""

    folder: Path
    json: Path
    contact_sheet: Path
    html: Path


def publish(
    comparison: Comparison, runs: Sequence[EvaluatedRun], *, include_photos: bool = False
) -> Published:
    """Write the three files into the run, or for several runs into `_comparisons/` beside them.

    Files of an earlier call are replaced, also those with photos in them. Raises `ApdmError` when
    the folder cannot be written, a picture is damaged, or a photo that is asked for is gone.
    """
    page = render_html(comparison, runs, include_photos)
    sheet = _sheet(comparison, runs, include_photos)
    folder = folder_of(runs)
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    published = Published(
        folder, folder / "comparison.json", folder / "contact_sheet.png", folder / "report.html"
    )
    write_bytes_atomic(published.json, json_text(comparison).encode("utf-8"))
    write_bytes_atomic(published.contact_sheet, sheet)
    write_bytes_atomic(published.html, page.encode("utf-8"))
    return published


def folder_of(runs: Sequence[EvaluatedRun]) -> Path:
    """Where a comparison of `runs` is kept."""
    if len(runs) == 1:
        return runs[0].run.path
    name = slug("--".join(slug(run.name) for run in runs), 80).replace("--", "-")
    return runs[0].run.path.parent / COMPARISONS / name


def json_text(comparison: Comparison) -> str:
    """comparison.json as it is written."""
    return json.dumps(comparison.as_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _sheet(comparison: Comparison, runs: Sequence[EvaluatedRun], include_photos: bool) -> bytes:
    rows: list[SheetRow] = []
    photos: list[Image.Image] = []
    for compared, run in zip(comparison.runs, runs, strict=True):
        of_run = sheet_rows(run, compared)
        if len(runs) > 1:
            of_run = [row.prefixed(run.name) for row in of_run]
        rows += of_run
        if include_photos:
            photos += subject_photos(run.run.manifest, TILE)
    single = comparison.runs[0]
    title = single.name if len(runs) == 1 else ", ".join(run.name for run in runs)
    about = single.verdict if len(runs) == 1 else f"{len(runs)} runs side by side"
    buffer = io.BytesIO()
    contact_sheet(title, about, rows, photos).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
