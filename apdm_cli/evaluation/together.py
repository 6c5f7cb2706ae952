"""The drawing of one evaluation, shared by several processes; the scores come afterwards.

Every process knows all pictures that are wanted and takes the next batch that nobody draws
(`draw_shared`), each beginning at another attacked model, so that few are opened twice. On a
cluster the command itself draws nothing: it counts what appears in the folder of runs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import torch

from apdm_cli.diffusion.picture_cache import make_ready, picture_files
from apdm_cli.diffusion.pictures import read_png
from apdm_cli.diffusion.shared_drawing import PictureFiles, draw_shared
from apdm_cli.errors import ApdmError
from apdm_cli.evaluation.profiles import EvaluationSettings
from apdm_cli.evaluation.session import CACHE, PictureSet, Session
from apdm_cli.extension.manager import build_plugin_manager, families
from apdm_cli.harness.arms import Arms
from apdm_cli.harness.cluster import Cluster, working
from apdm_cli.progress import Progress
from apdm_cli.runs.atomic import writing_to
from apdm_cli.runs.early import dismiss
from apdm_cli.runs.lock import POLL_SECONDS
from apdm_cli.runs.run import Run
from apdm_cli.runs.workers import Watcher, helping, threads_each


@dataclass(frozen=True)
class Team:
    """The workers beside the process of the command.

    Attributes:
        devices: one for each of them.
        watch: the name of a worker → who is told of it.
        plugin_files: the command's.
        cluster: whose workers draw in the place of those on `devices`, and of the command.
    """

    devices: tuple[torch.device, ...]
    watch: Callable[[str], Watcher]
    plugin_files: tuple[Path, ...] = ()
    cluster: Cluster | None = None


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
        plugins = build_plugin_manager(self.plugin_files)
        arms = Arms(Run.open(self.root, self.run), device, self.dtype, families(plugins))
        session = Session(self.root, arms, self.settings, reports, plugins)
        for arm in dict.fromkeys(one.arm for one in self.sets):
            arms.load(arm)
        _draw_all(session, _rotated(self.sets, number - 1, self.places), reports.advance)


@dataclass
class _Tally:
    """Counts the pictures that anybody draws."""

    progress: Progress
    drawn: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, count: int) -> None:
        with self._lock:
            self.drawn += count
            self.progress.advance(count)


class _Counted:
    """The `Watcher` of a worker whose pictures are counted with all others."""

    def __init__(self, watcher: Watcher, tally: _Tally) -> None:
        self._tally = tally
        self.takes, self.leaves, self.said = watcher.takes, watcher.leaves, watcher.said
        self.stage = watcher.stage

    def advance(self, count: int = 1, **terms: float) -> None:
        self._tally(count)


def draw_together(session: Session, sets: Sequence[PictureSet], team: Team) -> None:
    """Have every picture of `sets` drawn that can be, by `team` and this process.

    What cannot be drawn is left: whoever asks for it is told why.
    """
    ready = [one for one in {one.folder: one for one in sets}.values() if _is_ready(one)]
    missing = [_missing(one) for one in ready]
    todo = tuple(one for one, batches in zip(ready, missing, strict=True) if batches)
    counts = [count for batches in missing for count in batches]
    if not todo:
        dismiss()
        return
    devices = team.devices[: len(counts) - 1]
    share = DrawingShare(
        session.root,
        session.arms.run.address,
        session.settings,
        session.arms.dtype,
        todo,
        places=1 + len(devices),
        threads=threads_each(1 + len(devices)),
        plugin_files=team.plugin_files,
    )
    session.progress.stage("Drawing pictures", sum(counts), unit="pictures")
    if team.cluster is not None:
        _draw_on_cluster(team.cluster, share, len(counts), session.progress)
        return
    tally = _Tally(session.progress)
    with helping(share, devices, lambda name: _Counted(team.watch(name), tally)):
        _draw_all(session, todo, tally)


def _draw_on_cluster(
    cluster: Cluster, share: DrawingShare, batches: int, progress: Progress
) -> None:
    """Wait until the workers of `cluster` have drawn what can be drawn."""
    wanted = [file for one in share.sets for file in _files(one).files]
    left = [file for file in wanted if read_png(file) is None]
    with working(cluster, share, share.root, batches, progress.said) as tasks:
        while left:
            gone = tasks.at_work()  # first: what they have just drawn is then seen
            still = [file for file in left if read_png(file) is None]
            progress.advance(len(left) - len(still))
            left = still
            if left and gone is not None:
                if tasks.succeeded:
                    return  # what is missing cannot be drawn
                pictures = "1 picture is" if len(left) == 1 else f"{len(left)} pictures are"
                raise ApdmError(
                    f"All workers have ended, and {pictures} not drawn"
                    + (f": {gone}" if gone else ""),
                    "The same command goes on with what is left.",
                )
            time.sleep(POLL_SECONDS)


def _draw_all(session: Session, sets: Sequence[PictureSet], told: Callable[[int], None]) -> None:
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
            if not draw_shared(_files(wanted), claims, opened, told):
                held.append(wanted)
        except ApdmError:
            continue  # said when its scores are made
    return tuple(held)


def _files(wanted: PictureSet) -> PictureFiles:
    order = wanted.order
    files = tuple(picture_files(order, wanted.folder))
    return PictureFiles(files, order.prompts, order.seeds, order.sampler)


def _missing(wanted: PictureSet) -> list[int]:
    """How many pictures every batch lacks, of those that lack any."""
    files = _files(wanted)
    return [len(files.missing(batch)) for batch in files.unfinished()]


def _is_ready(wanted: PictureSet) -> bool:
    """Whether its folder could be prepared, here, where nobody draws into it yet."""
    try:
        wanted.require_drawable()
        make_ready(wanted.order, wanted.folder, keyed=wanted.shared)
    except ApdmError:
        return False
    return True


def _rotated(sets: tuple[PictureSet, ...], place: int, places: int) -> tuple[PictureSet, ...]:
    first = place * len(sets) // places
    return sets[first:] + sets[:first]
