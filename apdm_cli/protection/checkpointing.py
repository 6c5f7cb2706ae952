"""What a protection run keeps in a checkpoint, and how it goes back to it."""

from __future__ import annotations

import time

import torch

from apdm_cli.personalization.optimizers import load_optimizer
from apdm_cli.protection.bench import Bench
from apdm_cli.runs.checkpoints import latest, save_checkpoint
from apdm_cli.runs.clock import Clock
from apdm_cli.runs.due import Due
from apdm_cli.runs.jsonl import truncate_log
from apdm_cli.runs.run import Run


class Checkpoints:
    """What changes during a run: θ or its difference, what is kept, the streams, the clock.

    Photos and latents are no part of it: a latent decodes back into the photo. What is added to
    photos is kept where they are protected, without them. (The displacement
    of a persistent attacker has learnt the subject, as every attack's artifact has; it goes with
    the checkpoints when the run is done.)
    """

    def __init__(self, run: Run, bench: Bench, every: int = 0, clock: Clock | None = None) -> None:
        self.run, self.bench = run, bench
        self.clock = clock or Clock()
        self._due = Due(every)
        self._found, self._torn = latest(run.checkpoints)
        # Steps that were logged after it will be taken again.
        truncate_log(run.metrics_log, self._found.step if self._found else 0)

    def due(self, done: int) -> bool:
        """Whether to `save` after `done` steps; ask once a step."""
        return self._due(done)

    def save(self, done: int) -> None:
        """Write the state after `done` steps; the two latest are kept."""
        started = time.monotonic()
        state = {
            "weights": self.bench.state_dict(),
            "kept": {name: kept.state_dict() for name, kept in self.bench.kept.items()},
            "streams": self.bench.streams.state_dict(),
            "seconds": self.clock.seconds,
        }
        save_checkpoint(self.run.checkpoints, done, state)
        self._due.took(time.monotonic() - started)

    def restore(self) -> tuple[int, list[str]]:
        """Go to the latest whole checkpoint there was.

        Returns:
            the number of steps done there, 0 without one, and sentences for the user.
        """
        said = [
            f"Checkpoint {name} is damaged: going on from the one before." for name in self._torn
        ]
        checkpoint = self._found
        if checkpoint is None:
            return 0, said
        state = checkpoint.load()
        self.bench.load_state_dict(state["weights"])
        for name, kept in self.bench.kept.items():
            if isinstance(kept, torch.optim.Optimizer):
                load_optimizer(kept, state["kept"][name])
            else:
                kept.load_state_dict(state["kept"][name])
        # Last: attackers that were born again have drawn from them.
        self.bench.streams.load_state_dict(state["streams"])
        self.clock.goes_on(state["seconds"])
        return checkpoint.step, [*said, f"Going on after step {checkpoint.step}."]
