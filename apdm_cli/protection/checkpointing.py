"""What a protection run keeps in a checkpoint, and how it goes back to it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from apdm_cli.personalization.optimizers import load_optimizer
from apdm_cli.protection.bench import Bench
from apdm_cli.runs.checkpoints import Checkpoint, Stateful, latest, save_checkpoint, whole
from apdm_cli.runs.clock import Clock
from apdm_cli.runs.due import Due
from apdm_cli.runs.jsonl import truncate_log
from apdm_cli.runs.run import Run

MOST = 8  # checkpoints of a rank that are looked at; two are kept, and one may be new


class Checkpoints:
    """What changes during a run: θ or its difference, what is kept, the streams, the clock.

    Photos and latents are no part of it: a latent decodes back into the photo. What is added to
    photos is kept where they are protected, without them. (The displacement
    of a persistent attacker has learnt the subject, as every attack's artifact has; it goes with
    the checkpoints when the run is done.)

    Every rank has a folder of checkpoints of its own; that of rank 0 is written last, and what is
    the same in all of them is there alone. All ranks make, save and restore together.
    """

    def __init__(self, run: Run, bench: Bench, every: int = 0, clock: Clock | None = None) -> None:
        self.run, self.bench, self.ranks = run, bench, bench.ranks
        self.clock = clock or Clock()
        self.folder = _folder(run, self.ranks.number)
        self._due = Due(every)
        self._found, self._torn = self._latest()
        if self.ranks.leads:
            # Steps that were logged after it will be taken again.
            truncate_log(run.metrics_log, self._found.step if self._found else 0)

    def due(self, done: int) -> bool:
        """Whether to `save` after `done` steps; ask once a step."""
        return self._due(done)

    def save(self, done: int) -> None:
        """Write the state after `done` steps; the two latest are kept."""
        started = time.monotonic()
        leads = self.ranks.leads
        state = {
            **({"weights": self.bench.state_dict()} if leads else {}),
            "kept": {name: self._state(kept) for name, kept in self.bench.kept.items()},
            "streams": self.bench.streams.state_dict(),
            "seconds": self.clock.seconds,
        }
        if not leads:
            save_checkpoint(self.folder, done, state)
        self.ranks.wait()
        if leads:
            save_checkpoint(self.folder, done, state)
        self.ranks.wait()  # nobody leaves before it is there
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
        common = checkpoint
        if not self.ranks.leads:
            common = Checkpoint(checkpoint.step, _folder(self.run, 0) / checkpoint.path.name)
            state["weights"] = common.load("weights")
            for name, kept in self.bench.kept.items():
                for key in _common(kept):
                    state["kept"][name][key] = common.load("kept", name, key)
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

    def _state(self, kept: Stateful) -> Any:
        state = kept.state_dict()
        if self.ranks.leads or not _common(kept):
            return state
        return {key: value for key, value in state.items() if key not in _common(kept)}

    def _latest(self) -> tuple[Checkpoint | None, list[str]]:
        """The latest that is whole in all ranks, and the names of later ones."""
        if self.ranks.count == 1:
            return latest(self.folder)
        mine, torn = whole(self.folder)
        steps = [float(one.step) for one in mine[:MOST]]
        rows = self.ranks.gather([*steps, *[-1.0] * (MOST - len(steps))])
        everywhere = set.intersection(*(set(row) for row in rows)) - {-1.0}
        step = max(everywhere, default=-1.0)
        later = [one.path.name for one in mine if one.step > step] + torn
        return next((one for one in mine if one.step == step), None), sorted(later, reverse=True)


def _folder(run: Run, number: int) -> Path:
    return run.checkpoints / f"rank-{number}" if number else run.checkpoints


def _common(kept: Stateful) -> tuple[str, ...]:
    """Keys of its state under which all ranks have the same, where it says so."""
    return tuple(getattr(kept, "common", ()))
