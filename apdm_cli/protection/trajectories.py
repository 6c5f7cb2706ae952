"""Several processes for one protection: each walks another trajectory from the same θ.

Random streams, simulated attackers and their displacements are every rank's own; the gradient of
an outer step is the mean over all ranks, so that θ is the same in all of them.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from apdm_cli.errors import UsageError
from apdm_cli.extension.manager import (
    attacks,
    build_plugin_manager,
    choose,
    families,
    registered_protections,
)
from apdm_cli.extension.protection import Protection
from apdm_cli.progress import Silent
from apdm_cli.protection.request import ProtectRequest
from apdm_cli.protection.run import protect
from apdm_cli.runs.launched import Launched
from apdm_cli.runs.ranks import RankLost, Ranks, accompanied, launched_ranks, meeting_in
from apdm_cli.runs.workers import Watcher, threads_each


@dataclass(frozen=True)
class Trajectory:
    """What a rank needs to take part in the run of the command that started it: a `Task`.

    Attributes:
        request: the command's, without what plugins bring.
        method, settings: of that, the protection's name and its whole configuration.
        folder: where the ranks find each other.
        threads: of each rank on a processor.
        plugin_files, resume: the command's.
    """

    request: ProtectRequest
    method: str
    settings: dict[str, Any]
    folder: Path
    threads: int
    plugin_files: tuple[Path, ...]
    resume: bool

    def __post_init__(self) -> None:
        # Somebody's classes may come from a file that the other process has not loaded yet.
        bare: dict[str, Any] = {"method": None, "settings": None, "attacks": {}, "known": None}
        object.__setattr__(self, "request", replace(self.request, **bare))

    def work(self, device: torch.device, number: int, reports: Watcher) -> None:
        """Walk until the run is done. What rank 0 says as well is not said again."""
        plugins = build_plugin_manager(self.plugin_files)
        method = choose(registered_protections(plugins), self.method, "protection")
        request = replace(
            self.request,
            method=method,
            settings=method.item.Config.model_validate(self.settings),
            attacks=attacks(plugins),
            known=families(plugins),
            device=device,
        )
        with meeting_in(self.folder, number, request.ranks, device, _parent_is_watched) as ranks:
            try:
                protect(request, Silent(), resume=self.resume, ranks=ranks)
            except RankLost:
                sys.exit(1)


def _parent_is_watched() -> None:
    """A rank that was started by the command ends with it: see `runs.workers`."""


def check_ranks(protection: Protection, ranks: int) -> None:
    """Raise UsageError where one of `ranks` processes could not know what to average."""
    if ranks > 1 and not protection.ranks:
        raise UsageError(
            f"The protection {protection.name} is made by one process.",
            "Leave --ranks out, or use --method apdm.",
        )


@contextlib.contextmanager
def ranks_of(
    request: ProtectRequest,
    devices: Sequence[torch.device],
    place: Launched | None,
    watch: Callable[[str], Watcher],
    *,
    plugin_files: Sequence[Path] = (),
    resume: bool = False,
) -> Iterator[Ranks]:
    """The ranks of a protection, of which this process is one; it has to `protect` in the block.

    Args:
        devices: of the ranks, where this process starts the others.
        place: of this one, where a launcher has started them.
        watch: the name of a rank → who is told what it says.
    """
    if request.ranks == 1:
        yield Ranks()
        return
    if place is not None:
        with launched_ranks(place, request.device) as ranks:
            yield ranks
        return
    with TemporaryDirectory(prefix="apdm-ranks-") as name:
        task = Trajectory(
            request,
            request.protection.name,
            request.settings.model_dump(),
            Path(name),
            threads_each(request.ranks),
            tuple(plugin_files),
            resume,
        )
        with (
            accompanied(task, devices[1:], watch) as alive,
            meeting_in(task.folder, 0, request.ranks, request.device, alive) as ranks,
        ):
            yield ranks
