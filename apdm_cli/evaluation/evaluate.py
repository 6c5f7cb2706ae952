"""`apdm evaluate` as a function: pictures and scores of everything a run has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from apdm_cli.devices import resolve_dtype
from apdm_cli.errors import ApdmError
from apdm_cli.evaluation.bounds import bound_rows
from apdm_cli.evaluation.cells import AttackCell, Stop, attack_cells
from apdm_cli.evaluation.choosing import AUTO
from apdm_cli.evaluation.earlier import require_nothing_lost
from apdm_cli.evaluation.neighbours import require_distinct, teach_neighbours
from apdm_cli.evaluation.profiles import EvaluationSettings, class_images_of
from apdm_cli.evaluation.prompts import fill, load_prompts, neighbour_classes, spread
from apdm_cli.evaluation.scoring import Panel, open_panel, photo_pictures
from apdm_cli.evaluation.session import PictureSet, Session
from apdm_cli.evaluation.together import Team, draw_together
from apdm_cli.evaluation.utility import Topic, class_topic, sets_of, utility_rows
from apdm_cli.extension.manager import PluginManager, build_plugin_manager, families, metrics
from apdm_cli.extension.metric import Pictures
from apdm_cli.harness.arms import Arms
from apdm_cli.progress import Progress, Silent
from apdm_cli.runs.lock import holding
from apdm_cli.runs.manifest import write_json_atomic
from apdm_cli.runs.precision import name_of, spelled
from apdm_cli.runs.run import Run
from apdm_cli.scores import SCORES, LeftOut, PromptSet, ScoreRow, ScoresFile
from apdm_cli.subject import Subject, SubjectRecord

NEIGHBOUR_IMAGES = 32  # per neighbour class and model, at most


def evaluate_run(
    root: Path,
    run: Run,
    settings: EvaluationSettings,
    progress: Progress | None = None,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    plugins: PluginManager | None = None,
    team: Team | None = None,
) -> ScoresFile:
    """Draw and score every finished attack of `run`, and what protection cost.

    Writes `<run>/evaluation/scores.json` (docs/metrics.md) as a whole at the end; pictures are
    kept as they are drawn, so that an interrupted evaluation goes on. Returns what it wrote.

    Args:
        plugins: metrics, families of models and the attack on neighbours come from these; from
            the installed ones, if None.

    Raises:
        ApdmError: the run is not done, its model or photos are gone, no metric can be used, or
            scores of before would be lost (`require_nothing_lost`).
        UsageError: an unknown metric or backend, a prompts or captions file that is none, two
            neighbours of one name.
    """
    run.require_done()
    require_distinct(settings.neighbours)
    progress = progress or Silent()
    run.evaluation.mkdir(parents=True, exist_ok=True)

    def waiting() -> None:
        assert progress is not None
        progress.said(f"Waiting: another apdm process evaluates {run.name} just now.")

    with holding(run.evaluation, waiting):
        require_nothing_lost(root, run)
        target = device or torch.device("cpu")
        return _evaluate(root, run, settings, progress, target, dtype, plugins, team)


def _evaluate(
    root: Path,
    run: Run,
    settings: EvaluationSettings,
    progress: Progress,
    device: torch.device,
    dtype: torch.dtype,
    plugins: PluginManager | None,
    team: Team | None,
) -> ScoresFile:
    templates = load_prompts(settings.prompts)
    captions = load_prompts(str(settings.captions), "--captions") if settings.captions else ()
    known = plugins or build_plugin_manager()
    session = Session(root, Arms(run, device, dtype, families(known)), settings, progress, known)
    recorded = SubjectRecord.from_manifest(run.manifest["subject"])
    subject = recorded.load(session.model.resolution, settings.photos)
    panel = _panel(session)
    left_out = list(teach_neighbours(session))
    topics = topics_of(session, subject.class_noun, captions)
    if captions and not topics:
        why = "they need the original model, which the run does not name"
        left_out.append(LeftOut(cell="the captions", reason=why))
    found = list(usable_cells(session, left_out))
    cells = list(_with_photos(session, subject, found, left_out))
    sets = _sets(session, cells, topics, templates)
    if team is not None:
        draw_together(session, sets, team)
    # Those of earlier budgets were drawn by the attack, and are read.
    early = sum(stop.pictures is not None for cell in cells for stop in cell.stops)
    # The floor looks at the first topic's pictures again.
    again = len(topics[0].prompts) if topics else 0
    pictures = sum(len(one.order.prompts) for one in sets) + early * settings.images + again
    what = "Drawing pictures" if team is None else "Scoring pictures"
    session.progress.stage(what, pictures, unit="pictures")
    rows = list(_cell_rows(session, panel, cells, templates, left_out))
    for topic in topics:
        rows += utility_rows(topic, session.draw_model, panel, settings.seed)
    rows += bound_rows(session, panel, subject)
    texts = spread(templates, settings.images)
    asked = settings.model_dump(mode="json", exclude_defaults=True, exclude={"batch_size"})
    if plugin_files := [name for name in known.origins if name.endswith(".py")]:
        asked["plugin_files"] = plugin_files
    if dtype != resolve_dtype("auto", device):
        asked["dtype"] = spelled(name_of(dtype))
    result = ScoresFile(
        run=run.name,
        asked=asked,
        model=run.manifest.get("model"),
        protected_digest=session.arms.ref("protected").digest,
        sampler=session.describe_sampler(),
        dtype=name_of(dtype),
        prompts=PromptSet(set=settings.prompts, n=settings.images, texts=tuple(texts)),
        subject=run.manifest["subject"],
        metrics=panel.meanings,
        rows=tuple(rows),
        unavailable=tuple(panel.unavailable),
        left_out=tuple(left_out),
    )
    write_json_atomic(run.evaluation / SCORES, result.as_json())
    return result


def _panel(session: Session) -> Panel:
    """The metrics; what was asked for by name or fails is said, the rest goes on."""
    names = session.settings.metrics
    panel = open_panel(
        names,
        session.model,
        session.settings.weights,
        metrics(session.plugins),
        session.verified,
    )
    panel.said = session.progress.said
    for missing in panel.unavailable:
        # Whoever says where weights are has asked for what needs them.
        asked = missing.metric in names or AUTO not in names
        if missing.failed or asked or missing.reason.startswith("--weights"):
            session.progress.said(f"{missing.metric} is left out: {missing.reason}")
    if not panel.metrics:
        reasons = "; ".join(f"{one.metric}: {one.reason}" for one in panel.unavailable)
        raise ApdmError(f"None of the metrics can be used: {reasons}")
    return panel


def topics_of(session: Session, class_noun: str, captions: Sequence[str]) -> list[Topic]:
    """What utility is measured on: nothing, where there is no original to compare with."""
    if not session.arms.has_original:
        session.progress.said("Utility is left out: the run names no original model.")
        return []
    count = class_images_of(session.settings, session.model)
    topics = [class_topic(class_noun, count)]
    for name in neighbour_classes(class_noun):
        topics.append(class_topic(name, min(count, NEIGHBOUR_IMAGES), f"{name} pictures"))
    if captions:
        topics.append(Topic("captions", tuple(captions)))
    return topics


def usable_cells(session: Session, left_out: list[LeftOut]) -> Iterator[AttackCell]:
    """Cells with an artifact; the others are said and recorded."""
    for found in attack_cells(session.root, session.arms.run):
        if isinstance(found, AttackCell):
            yield found
        else:
            session.progress.said(f"{found.cell} is left out: {found.reason}")
            left_out.append(found)


@dataclass(frozen=True)
class _Scored:
    """A cell that is scored, against `photos`, uint8 (M, R, R, 3)."""

    cell: AttackCell
    photos: Tensor
    neighbour: bool

    @property
    def stops(self) -> list[Stop]:
        return self.cell.stops


def _with_photos(
    session: Session, subject: Subject, cells: Sequence[AttackCell], left_out: list[LeftOut]
) -> Iterator[_Scored]:
    """What every cell is held against; one whose photos are gone is said and left out.

    Attacks are held against the run's photos, whichever photos the attacker had; cells of
    another subject (neighbours) against that subject's own.
    """
    own = photo_pictures(subject.photos)
    for cell in cells:
        described = cell.subject
        if described["name"] == subject.name:
            yield _Scored(cell, own, neighbour=False)
            continue
        try:
            other = SubjectRecord.from_manifest(described).load(session.model.resolution)
        except ApdmError as error:
            session.progress.said(f"{cell.name} is left out: {error}")
            left_out.append(LeftOut(cell=cell.name, reason=str(error)))
            continue
        yield _Scored(cell, photo_pictures(other.photos), neighbour=True)


def _sets(
    session: Session, cells: Sequence[_Scored], topics: Sequence[Topic], templates: Sequence[str]
) -> list[PictureSet]:
    """All pictures that the scores are made of, but for those that attacks drew themselves."""
    settings = session.settings
    chosen = spread(templates, settings.images)
    return [
        *(
            session.of_cell(one.cell, stop, fill(chosen, one.cell.subject_words))
            for one in cells
            for stop in one.stops
            if stop.pictures is None
        ),
        *(session.of_model(*one) for topic in topics for one in sets_of(topic, settings.seed)),
    ]


def _cell_rows(
    session: Session,
    panel: Panel,
    cells: Sequence[_Scored],
    templates: Sequence[str],
    left_out: list[LeftOut],
) -> Iterator[ScoreRow]:
    """A row per cell and budget. One that cannot be used costs itself only."""
    chosen = spread(templates, session.settings.images)
    for one in cells:
        cell = one.cell
        gone: list[tuple[Stop, ApdmError]] = []
        for stop in one.stops:
            try:
                yield cell_row(
                    session, panel, cell, stop, chosen, one.photos, neighbour=one.neighbour
                )
            except ApdmError as error:
                gone.append((stop, error))
                left_out.append(LeftOut(cell=cell.name, reason=str(error)))
        if gone:  # mostly for one reason, which is long: it is said once
            budgets = ", ".join(f"{stop.budget:g}" for stop, _ in gone)
            which = f" at {budgets} × the steps" if len(one.stops) > 1 else ""
            session.progress.said(f"{cell.name}{which} is left out: {gone[0][1]}")


def cell_row(
    session: Session,
    panel: Panel,
    cell: AttackCell,
    stop: Stop,
    templates: Sequence[str],
    photos: Tensor,
    *,
    neighbour: bool = False,
) -> ScoreRow:
    """Draw with one attacked model and score against `photos`, uint8 (M, R, R, 3)."""
    manifest = cell.manifest
    prompts = fill(templates, cell.subject_words)
    images, folder = session.draw_cell(cell, stop, prompts)
    # No CLIP ever learnt the identifier: it is asked for the class alone.
    plain = fill(templates, str(cell.subject["class_noun"]))
    name, variant = str(manifest["attack"]), cell.variant
    budget = "" if stop.budget == 1 else f"{stop.budget:g} × the steps"
    label = ", ".join(part for part in (name, variant, budget) if part)
    if neighbour:
        label = f"{cell.subject['name']}, {cell.arm}"
    return ScoreRow(
        role="neighbour" if neighbour else "attack",
        attack=name,
        variant=variant,
        cell=cell.name,
        arm=cell.arm,
        seed=int(manifest.get("seed") or 0),
        budget=stop.budget,
        steps=stop.steps,
        topic=str(cell.subject["name"]) if neighbour else "",
        label=label,
        images=folder,
        prompts=tuple(prompts),
        scores=panel.scores(Pictures(images=images, prompts=plain, photos=photos)),
    )
