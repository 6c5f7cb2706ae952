"""What a protection run keeps in a checkpoint, and how it goes back to it."""

from __future__ import annotations

import time

from apdm_cli.protection.l2p import LearningToProtect
from apdm_cli.protection.low_memory import load_optimizer
from apdm_cli.randomness import Streams
from apdm_cli.runs.checkpoints import latest, save_checkpoint
from apdm_cli.runs.due import Due
from apdm_cli.runs.jsonl import truncate_log
from apdm_cli.runs.run import Run


class Checkpoints:
    """Everything that changes during a run: θ, AdamW's moments, the streams, the clock.

    θ′ and the inner AdamW start afresh in every outer step, so they are not part of it. Neither
    are photos or latents: a latent decodes back into the photo.
    """

    def __init__(
        self, run: Run, bilevel: LearningToProtect, streams: Streams, every: int = 0
    ) -> None:
        self.run, self.bilevel, self.streams = run, bilevel, streams
        self._due = Due(every)
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time spent on the run so far, over all its processes."""
        return time.monotonic() - self._began

    def due(self, done: int) -> bool:
        """Whether to `save` after `done` steps; ask once a step."""
        return self._due(done)

    def save(self, done: int) -> None:
        """Write the state after `done` outer steps; the two latest are kept."""
        started = time.monotonic()
        state = {
            "weights": self.bilevel.start.network.state_dict(),
            "optimizer": self.bilevel.outer_optimizer.state_dict(),
            "streams": self.streams.state_dict(),
            "seconds": self.seconds,
        }
        save_checkpoint(self.run.checkpoints, done, state)
        self._due.took(time.monotonic() - started)

    def restore(self) -> tuple[int, list[str]]:
        """Go to the latest whole checkpoint.

        Returns:
            the number of outer steps done there, 0 without one, and sentences for the user.
        """
        checkpoint, torn = latest(self.run.checkpoints)
        said = [f"Checkpoint {name} is damaged: going on from the one before." for name in torn]
        truncate_log(self.run.metrics_log, checkpoint.step if checkpoint else 0)
        if checkpoint is None:
            return 0, said
        state = checkpoint.load()
        self.bilevel.start.network.load_state_dict(state["weights"])
        load_optimizer(self.bilevel.outer_optimizer, state["optimizer"])
        self.streams.load_state_dict(state["streams"])
        self._began = time.monotonic() - state["seconds"]
        return checkpoint.step, [*said, f"Going on after step {checkpoint.step}."]
