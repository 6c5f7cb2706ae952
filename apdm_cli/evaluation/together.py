"""The drawing of one evaluation, shared by several processes; the scores come afterwards.

Every process knows all pictures that are wanted and takes the next batch that nobody draws
(`evaluation.workers`). On a cluster the command itself draws nothing
(`evaluation.cluster_drawing`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from apdm_cli.diffusion.picture_cache import make_ready
from apdm_cli.errors import ApdmError
from apdm_cli.evaluation.cluster_drawing import draw_on_cluster
from apdm_cli.evaluation.session import PictureSet, Session
from apdm_cli.evaluation.workers import DrawingShare, draw_all, files_of
from apdm_cli.harness.cluster import Cluster
from apdm_cli.progress import Progress
from apdm_cli.runs.early import dismiss
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
        draw_on_cluster(team.cluster, share, session)
        return
    tally = _Tally(session.progress)
    with helping(share, devices, lambda name: _Counted(team.watch(name), tally)):
        draw_all(session, todo, tally)


def _missing(wanted: PictureSet) -> list[int]:
    """How many pictures every batch lacks, of those that lack any."""
    files = files_of(wanted)
    return [len(files.missing(batch)) for batch in files.unfinished()]


def _is_ready(wanted: PictureSet) -> bool:
    """Whether its folder could be prepared, here, where nobody draws into it yet."""
    try:
        wanted.require_drawable()
        make_ready(wanted.order, wanted.folder, keyed=wanted.shared)
    except ApdmError:
        return False
    return True
