"""What an `apdm evaluate` would draw, without drawing or scoring anything."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from apdm_cli.diffusion.picture_cache import missing
from apdm_cli.errors import ApdmError
from apdm_cli.evaluation.earlier import require_nothing_lost
from apdm_cli.evaluation.evaluate import topics_of, usable_cells
from apdm_cli.evaluation.neighbours import neighbour_cells, require_distinct
from apdm_cli.evaluation.profiles import EvaluationSettings
from apdm_cli.evaluation.prompts import fill, load_prompts, spread
from apdm_cli.evaluation.session import Session
from apdm_cli.evaluation.utility import sets_of
from apdm_cli.extension.manager import PluginManager, families
from apdm_cli.harness.arms import Arms
from apdm_cli.harness.forecast import forecast
from apdm_cli.harness.stops import is_drawn
from apdm_cli.progress import Silent
from apdm_cli.protection.plan import forward_seconds
from apdm_cli.runs.run import Run
from apdm_cli.scores import LeftOut
from apdm_cli.subject import SubjectRecord


@dataclass(frozen=True)
class EvaluationForecast:
    """The work of one evaluation.

    Attributes:
        rows: attacked models that would be scored, each at every budget.
        pictures, to_draw: of all rows and of everybody else; how many are not there yet.
        neighbour_steps: optimizer steps at most, to teach neighbours who were not taught yet.
        sampler: how pictures are drawn, as scores.json has it.
        seconds: to draw, at the pace of one step of the sampler, measured just now.
        said: what the user should know of the models.
        left_out: cells that cannot be scored, and why.
    """

    rows: int
    pictures: int
    to_draw: int
    neighbour_steps: int
    sampler: dict[str, Any]
    seconds: float
    said: tuple[str, ...]
    left_out: tuple[LeftOut, ...]


class _Heard(Silent):
    def __init__(self) -> None:
        self.sentences: list[str] = []

    def said(self, sentence: str) -> None:
        self.sentences.append(sentence)


def forecast_evaluation(
    root: Path,
    run: Run,
    settings: EvaluationSettings,
    plugins: PluginManager,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> EvaluationForecast:
    """Look at what `evaluate_run` would draw with the same arguments; writes nothing.

    Raises:
        ApdmError, UsageError: as `evaluate_run` before it draws.
    """
    run.require_done()
    require_distinct(settings.neighbours)
    require_nothing_lost(root, run)
    templates = spread(load_prompts(settings.prompts), settings.images)
    captions = load_prompts(str(settings.captions), "--captions") if settings.captions else ()
    heard = _Heard()
    arms = Arms(run, device, dtype, families(plugins))
    session = Session(root, arms, settings, heard, plugins)
    left_out: list[LeftOut] = []
    wanted: dict[Path, int] = {}  # several rows may be made of the pictures in one folder
    rows = pictures = untaught_pictures = steps = 0
    for cell in usable_cells(session, left_out):
        others: list[str] = []
        for stop in cell.stops:
            order, folder = session.place_of_cell(cell, stop, fill(templates, cell.subject_words))
            if stop.pictures is not None and not is_drawn(folder, order):
                others.append(f"{stop.budget:g}")
                continue
            if stop.pictures is None and (lacking := missing(order, folder)):
                try:
                    _ = cell.artifact
                except ApdmError as error:
                    left_out.append(LeftOut(cell=cell.name, reason=str(error)))
                    continue
                wanted[folder] = lacking
            rows += 1
            pictures += len(order.prompts)
        if others:
            reason = (
                f"its pictures at {', '.join(others)} × the steps are not those asked for; "
                "ask for those that the attack drew (--images, --prompts, --steps, --dtype)"
            )
            left_out.append(LeftOut(cell=cell.name, reason=reason))
    for neighbour in settings.neighbours:
        cells = forecast(neighbour_cells(session, neighbour), arms, root)
        untaught = [one for one in cells if one.runs]
        steps += sum(one.steps for one in untaught)
        rows += len(untaught)
        pictures += len(untaught) * settings.images
        untaught_pictures += len(untaught) * settings.images
    noun = SubjectRecord.from_manifest(run.manifest["subject"]).class_noun
    for topic in topics_of(session, noun, captions):
        for one in sets_of(topic, settings.seed):
            order, folder = session.place_of_model(*one)
            pictures += len(order.prompts)
            wanted[folder] = missing(order, folder)
    to_draw = untaught_pictures + sum(wanted.values())
    sampler = session.describe_sampler()
    return EvaluationForecast(
        rows,
        pictures,
        to_draw,
        steps,
        sampler,
        to_draw * sampler["steps"] * forward_seconds(session.model) if to_draw else 0.0,
        tuple(heard.sentences),
        tuple(left_out),
    )
