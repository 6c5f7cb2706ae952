"""The files of a comparison: comparison.json, contact_sheet.png, and report.html.

The page is one file that needs nothing else, no network and no script.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from apdm_cli.config import flatten
from apdm_cli.report import charts
from apdm_cli.report.arms import ArmWords, words_for
from apdm_cli.report.evaluated import EvaluatedRun, are_subjects
from apdm_cli.report.foremost import attack_labels, foremost
from apdm_cli.report.overview import HEADINGS, overview
from apdm_cli.report.pictures import (
    TILE,
    Pair,
    SheetRow,
    attack_lines,
    contact_sheet,
    curve_picture,
    pair_of,
    sheet_rows,
    subject_photos,
)
from apdm_cli.report.plots import Chart
from apdm_cli.report.schema import Comparison, Line, Requirement, RunComparison, WorkFactor
from apdm_cli.report.table import (
    WORK_HEADINGS,
    Block,
    blocks,
    cells,
    headings,
    work_rows,
    work_title,
)
from apdm_cli.report.verdict import distance_line, followed, moved, primary, smallest
from apdm_cli.report.words import (
    number,
    percent,
    signed,
    verdict_on,
    with_interval,
    work_in_words,
)
from apdm_cli.runs.atomic import write_bytes_atomic, writing_to
from apdm_cli.runs.names import slug
from apdm_cli.visible import json_escaped, visible

_BREAKS = re.compile(r" (?=%|\[[−\d])|(?<=\d,) (?=[−\d.]+\])")
PICTURES = 8  # per attack and arm
SIDE = 160  # pixels at most, of an embedded picture
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

    Those of one of several subjects of a run go into the subject's own folder.


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
        return runs[0].run.place
    if are_subjects(runs):
        return runs[0].run.path
    name = slug("--".join(slug(run.name) for run in runs), 80).replace("--", "-")
    return runs[0].run.path.parent / COMPARISONS / name


def json_text(comparison: Comparison) -> str:
    """comparison.json as it is written."""
    text = json.dumps(comparison.as_json(), indent=2, ensure_ascii=False, allow_nan=False)
    return json_escaped(text) + "\n"


def headline(runs: Sequence[EvaluatedRun]) -> str:
    """What stands over several runs, or over several subjects of one."""
    if are_subjects(runs):
        return f"{runs[0].run.path.name}: {len(runs)} subjects, the smallest work factor first"
    return f"{len(runs)} runs side by side"


def _sheet(comparison: Comparison, runs: Sequence[EvaluatedRun], include_photos: bool) -> bytes:
    rows: list[SheetRow] = []
    several = len(runs) > 1
    for compared, run in zip(comparison.runs, runs, strict=True):
        photos = subject_photos(run.run.manifest, TILE) if include_photos else []
        of_run = sheet_rows(run, compared, photos=photos)
        rows += [replace(row, caption=f"{run.name}: {row.caption}") if several else row
                 for row in of_run]  # fmt: skip
    single = comparison.runs[0]
    if several:
        title = ", ".join(run.name for run in runs)
        about = headline(runs)
    else:
        title, about = (
            f"This {single.subject.class_noun} is protected. Does it hold?",
            single.answer,
        )
    curve = None if several else curve_picture(single)
    buffer = io.BytesIO()
    contact_sheet(title, about, rows, curve).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


@dataclass(frozen=True)
class Grid:
    """Pictures of one attack (or topic) as data URLs, both arms, with the line that scores them."""

    title: str
    numbers: tuple[int, ...]
    arms: dict[str, list[str]]
    prompts: tuple[str, ...] = ()
    line: Line | None = None


@dataclass(frozen=True)
class RunView:
    """What the template shows of one run.

    Attributes:
        undrawn: number of attacks that stand in the tables only.
    """

    key: str
    run: RunComparison
    arms: ArmWords
    worst: Line | None
    cheapest: WorkFactor | None
    neighbours: Line | None
    distance: Line | None
    attack_blocks: list[Block]
    other_blocks: list[Block]
    utility_blocks: list[Block]
    undrawn: int
    work: Chart | None
    similarity: Chart | None
    rounds: Chart | None
    losses: Chart | None
    protection: Chart | None
    attacks: list[Grid]
    topics: list[Grid]
    photos: list[str]
    requirements: list[Requirement]
    seeds: list[int]
    settings: list[tuple[str, Any]] = field(default_factory=list)


def _seen(value: Any) -> Any:
    """Text as a reader may see it; markup of our own stays."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return visible(value, lines=True)
    return value


def render_html(
    comparison: Comparison, runs: Sequence[EvaluatedRun], include_photos: bool = False
) -> str:
    """The page. Photos of the subject are embedded (as thumbnails) only with `include_photos`.

    Raises `ApdmError` when a picture is damaged, or a photo that is asked for is gone.
    """
    environment = Environment(
        loader=PackageLoader("apdm_cli.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_seen,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["work_headings"] = WORK_HEADINGS
    environment.filters.update(
        interval=with_interval,
        share=lambda value: with_interval(value, percent),
        signed_interval=lambda value: with_interval(value, signed),
        number=number,
        percent=percent,
        cells=lambda line, block: cells(line, block.share),
        headings=headings,
        tight=_tight,
        moved=moved,
        work=work_in_words,
        work_rows=work_rows,
        work_title=work_title,
        effect=verdict_on,
    )
    views = [
        _view(f"r{place + 1}", compared, run, comparison.required(place), include_photos)
        for place, (compared, run) in enumerate(zip(comparison.runs, runs, strict=True))
    ]
    style = environment.get_template("style.css").render()
    page = environment.get_template("report.html.j2").render(
        comparison=comparison,
        views=views,
        style=Markup(style),  # our own file, no value in it
        include_photos=include_photos,
        headline=headline(runs),
        overview=overview(comparison),
        overview_headings=HEADINGS,
        metrics=_metrics(comparison),
        # What "original" and "protected" mean in the runs of this page, each once.
        meanings=dict.fromkeys(view.arms.meaning for view in views),
    )
    return page.rstrip() + "\n"


def _view(
    key: str,
    compared: RunComparison,
    run: EvaluatedRun,
    required: Sequence[Requirement],
    include_photos: bool,
) -> RunView:
    worst = primary(compared.lines, compared.metrics, "worst")
    tables = list(blocks(compared))
    of_attacks = [block for block in tables if block.lines[0].role == "attack"]
    main = worst.metric if worst else None
    photos = subject_photos(run.run.manifest, SIDE) if include_photos else []
    shown = foremost(compared, main)
    grids = [(line, pair_of(run, line, PICTURES, SIDE)) for line in attack_lines(shown.lines)]
    topics = [(line, pair_of(run, line, PICTURES, SIDE)) for line in compared.class_pictures]
    return RunView(
        key=key,
        run=compared,
        arms=words_for(compared.protects),
        worst=worst,
        neighbours=primary(compared.lines, compared.metrics, "neighbours"),
        distance=distance_line(compared.lines, compared.metrics),
        attack_blocks=[block for block in of_attacks if block.lines[0].metric == main],
        other_blocks=[block for block in of_attacks if block.lines[0].metric != main],
        utility_blocks=[block for block in tables if block.lines[0].role != "attack"],
        cheapest=smallest(followed(compared.work)),
        undrawn=len(attack_labels(compared)) - len(attack_labels(shown)),
        work=_trusted(charts.work(shown, f"{key}-work")),
        similarity=_trusted(charts.similarity(shown, main, f"{key}-sim") if main else None),
        rounds=_trusted(charts.rounds(compared, main, f"{key}-rounds") if main else None),
        losses=_trusted(charts.attack_losses(shown.curves, f"{key}-loss")),
        protection=_trusted(charts.protection(compared.curves, f"{key}-protection")),
        attacks=[
            _grid(pair, _prompts(run, line), _scored(compared, line.title, main))
            for line, pair in grids
            if pair
        ],
        topics=[_grid(pair, _prompts(run, line), None) for line, pair in topics if pair],
        photos=[_data_url(photo) for photo in photos],
        requirements=list(required),
        seeds=sorted(
            {
                seed
                for line in compared.of("attack")
                for arm in (line.original, line.protected)
                if arm
                for seed in arm.seeds
            }
        ),
        settings=list(flatten(compared.provenance.configuration)),
    )


def _scored(run: RunComparison, label: str, metric: str | None) -> Line | None:
    return next((line for line in run.of("attack", metric) if line.title == label), None)


def _prompts(run: EvaluatedRun, line: Line) -> list[str]:
    """What was asked for, by the pictures' numbers; nothing where `evaluate` did not say."""
    shown = (line.pictures.protected, line.pictures.original)
    row = next((row for row in run.scores.rows if row.images and row.images in shown), None)
    return list(row.prompts) if row else []


def _grid(pair: Pair, prompts: Sequence[str], line: Line | None) -> Grid:
    numbers = tuple(int(name.partition(".")[0]) for name in pair.numbers)
    known = numbers and max(numbers) < len(prompts)
    arms = {"original": pair.original, "protected": pair.protected}
    return Grid(
        pair.title,
        numbers,
        {arm: [_data_url(picture) for picture in pictures] for arm, pictures in arms.items()},
        tuple(prompts[number] for number in numbers) if known else (),
        line,
    )


def _trusted(chart: Chart | None) -> Chart | None:
    """matplotlib escapes every text it writes; the rest of the SVG is its own."""
    if chart is None:
        return None
    return Chart(Markup(chart.wide), Markup(chart.narrow), chart.description)


def _data_url(picture: Image.Image) -> str:
    """Lossless where small (the pocket model), JPEG above."""
    buffer = io.BytesIO()
    small = max(picture.size) <= 96
    if small:
        picture.save(buffer, "PNG", optimize=True)
    else:
        picture.save(buffer, "JPEG", quality=85)
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _tight(text: str) -> str:
    """A number stays on one line with its unit and its interval."""
    return _BREAKS.sub("\u00a0", text)


def _metrics(comparison: Comparison) -> Mapping[str, str]:
    """Every metric of the page with its explanation."""
    every = (metric for run in comparison.runs for metric in run.metrics)
    return {metric.metric: metric.explanation for metric in every}
