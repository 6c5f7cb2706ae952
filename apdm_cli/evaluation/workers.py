"""Workers of one evaluation: they drain the same list of pictures.

Each takes the next batch that nobody draws (`draw_shared`), and begins at another attacked model,
so that few are opened twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch

from apdm_cli.diffusion.picture_cache import picture_files
from apdm_cli.diffusion.shared_drawing import PictureFiles, draw_shared
from apdm_cli.errors import ApdmError
from apdm_cli.evaluation.profiles import EvaluationSettings
from apdm_cli.evaluation.session import CACHE, PictureSet, Session
from apdm_cli.extension.manager import build_plugin_manager, families
from apdm_cli.harness.arms import Arms
from apdm_cli.progress import Progress
from apdm_cli.runs.atomic import writing_to
from apdm_cli.runs.lock import POLL_SECONDS
from apdm_cli.runs.run import Run
from apdm_cli.runs.workers import Watcher


@dataclass(frozen=True)
class DrawingShare:
    """What a worker needs to draw for the command that it helps: a `Task`.

    Attributes:
        run: its folder, or what `Run.open` takes for one of its subjects.
        sets: all pictures that are wanted; their folders are ready.
        places: how many processes draw.
    """

    root: Path
    run: Path
    settings: EvaluationSettings
    dtype: torch.dtype
    sets: tuple[PictureSet, ...]
    places: int
    threads: int
    plugin_files: tuple[Path, ...] = ()

    def in_precision(self, dtype: torch.dtype) -> DrawingShare:
        """The same, drawn in `dtype`."""
        return replace(self, dtype=dtype)

    def work(self, device: torch.device, number: int, reports: Watcher) -> None:
        """Draw what nobody else draws, until nothing is left.

        Raises:
            ApdmError: one of both models is not here as it was. (What is wrong with an attacked
                one is said when its scores are made.)
        """
        session = self.session(device, reports)
        for arm in dict.fromkeys(one.arm for one in self.sets):
            session.arms.load(arm)
        draw_all(session, _rotated(self.sets, number - 1, self.places), reports.advance)

    def session(self, device: torch.device, reports: Progress) -> Session:
        """What a worker draws with."""
        plugins = build_plugin_manager(self.plugin_files)
        arms = Arms(Run.open(self.root, self.run), device, self.dtype, families(plugins))
        return Session(self.root, arms, self.settings, reports, plugins)


def draw_all(session: Session, sets: Sequence[PictureSet], told: Callable[[int], None]) -> None:
    """Draw, together with others, until all that can be drawn is there."""
    while sets := _draw(session, sets, told):
        time.sleep(POLL_SECONDS)


def _draw(
    session: Session, sets: Sequence[PictureSet], told: Callable[[int], None]
) -> tuple[PictureSet, ...]:
    """Draw what nobody else draws; returns the sets of which others draw something just now."""
    claims = session.root / CACHE
    with writing_to(claims):
        claims.mkdir(parents=True, exist_ok=True)
    held = []
    for wanted in sets:
        # Opened once, and forgotten with the set.
        opened = cache(lambda wanted=wanted: session.opened(wanted))
        try:
            if not draw_shared(files_of(wanted), claims, opened, told):
                held.append(wanted)
        except ApdmError:
            continue  # said when its scores are made
    return tuple(held)


def files_of(wanted: PictureSet) -> PictureFiles:
    """Where its pictures are, or will be."""
    order = wanted.order
    files = tuple(picture_files(order, wanted.folder))
    return PictureFiles(files, order.prompts, order.seeds, order.sampler)


def _rotated(sets: tuple[PictureSet, ...], place: int, places: int) -> tuple[PictureSet, ...]:
    first = place * len(sets) // places
    return sets[first:] + sets[:first]
