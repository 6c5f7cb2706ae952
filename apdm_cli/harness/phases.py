"""Checkpoints inside a cell: an interrupted attack goes on to the bit-identical end.

An attack is ordinary code that calls `Workbench.personalize` once or several times: its phases.
After an interrupt the same code runs again from its beginning; a phase that has a checkpoint
starts from there, a phase whose checkpoint is its end is skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from apdm_cli.personalization.averaging import WeightAverage
from apdm_cli.personalization.optimizers import load_optimizer
from apdm_cli.randomness import Streams
from apdm_cli.runs.checkpoints import latest, save_checkpoint
from apdm_cli.runs.clock import Clock
from apdm_cli.runs.names import slug


@dataclass
class Phase:
    """One training inside a cell and everything that changes during it.

    Attributes:
        folder: of its checkpoints.
        parameters, optimizer, streams, average: the state. The global CPU generator belongs to
            it as well: plugins may draw from it.
        clock: of the whole cell.
    """

    folder: Path
    parameters: Sequence[Tensor]
    optimizer: torch.optim.Optimizer
    streams: Streams
    average: WeightAverage | None = None
    clock: Clock = field(default_factory=Clock)
    saved_at: int = field(default=-1, init=False)

    @classmethod
    def name(cls, index: int, label: str) -> str:
        """Folder name of the `index`-th phase of a cell."""
        return f"{index:03d}-{slug(label) or 'phase'}"

    def save(self, step: int) -> None:
        """Write the state after `step` steps."""
        state = {
            "parameters": [parameter.detach() for parameter in self.parameters],
            "optimizer": self.optimizer.state_dict(),
            "streams": self.streams.state_dict(),
            "global": torch.get_rng_state(),
            "average": self.average.shadow if self.average else None,
            "seconds": self.clock.seconds,
        }
        save_checkpoint(self.folder, step, state, keep=1)
        self.saved_at = step

    @torch.no_grad()
    def restore(self, usable: Callable[[int], bool] = lambda done: True) -> int:
        """Go to the latest whole checkpoint; returns the number of steps that are done.

        Args:
            usable: whether a training may go on after so many steps; if not, it begins again.
        """
        checkpoint, _ = latest(self.folder)
        if checkpoint is None or not usable(checkpoint.step):
            return 0
        state = checkpoint.load()
        for parameter, value in zip(self.parameters, state["parameters"], strict=True):
            parameter.copy_(value)
        load_optimizer(self.optimizer, state["optimizer"])
        self.streams.load_state_dict(state["streams"])
        torch.set_rng_state(state["global"])
        if self.average is not None:
            self.average.load(state["average"])
        self.clock.goes_on(state.get("seconds", 0.0))  # older checkpoints don't say it
        self.saved_at = checkpoint.step
        return checkpoint.step
