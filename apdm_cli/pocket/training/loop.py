"""The training loop of all stages: AdamW, warm-up, a late decay, EMA, checkpoints.

The learning rate stays constant for the first `DECAY_FROM` of the steps and then falls to zero
along a cosine. Until the decay begins, the total number of steps does not matter, so that it can
be chosen from the measured speed and a budget in minutes. The run is determined by the seed, the
number of workers and the total number of steps.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from apdm_cli.pocket.training.parallel import Team
from apdm_cli.pocket.training.streams import stream

DECAY_FROM = 0.6
ALIGNMENT = 16  # numbers; keeps every parameter on a cache line of the flat buffer
UNDECIDED = 10**9

Loss = Callable[[torch.Generator], Tensor]


@dataclass(frozen=True)
class Recipe:
    """How one stage trains. `minutes` (optional) replaces `steps` by a wall-clock budget."""

    stage: str
    seed: int
    steps: int
    learning_rate: float
    warm_up: int = 100
    weight_decay: float = 1e-2
    betas: tuple[float, float] = (0.9, 0.99)
    ema: float = 0.999
    clip: float = 1.0
    checkpoint_every: int = 200
    minutes: float | None = None


class FlatParameters:
    """All parameters of a module as views of one flat buffer, and the same for gradients.

    One fused optimizer step, one average over the workers, one EMA update, one checkpoint tensor.
    """

    def __init__(self, module: nn.Module) -> None:
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.places: list[slice] = []
        start = 0
        for parameter in self.parameters:
            self.places.append(slice(start, start + parameter.numel()))
            start += -(-parameter.numel() // ALIGNMENT) * ALIGNMENT
        device = self.parameters[0].device
        self.values = nn.Parameter(torch.zeros(start, device=device))
        self.gradient = torch.zeros(start, device=device)
        self.values.grad = self.gradient
        with torch.no_grad():
            for parameter, place in zip(self.parameters, self.places, strict=True):
                self.values[place].copy_(parameter.reshape(-1))
                parameter.data = self.values.data[place].view(parameter.shape)
                parameter.grad = self.gradient[place].view(parameter.shape)


def flat_size(module: nn.Module) -> int:
    """How many numbers `FlatParameters` of the module holds."""
    return sum(-(-p.numel() // ALIGNMENT) * ALIGNMENT for p in module.parameters())


def load_average(module: nn.Module, checkpoint: Path) -> int:
    """Puts the EMA weights of a checkpoint into `module`; returns the checkpoint's step."""
    flat = FlatParameters(module)
    with safe_open(checkpoint, "pt") as file, torch.no_grad():
        flat.values.copy_(file.get_tensor("average"))
        return int(file.metadata()["step"])


def steps_done(checkpoint: Path) -> int:
    """The step at which a checkpoint was written."""
    with safe_open(checkpoint, "pt") as file:
        return int(file.metadata()["step"])


def schedule(recipe: Recipe, step: int, total: int) -> float:
    """The share of the learning rate that step `step` (from 0) out of `total` uses."""
    warm = min(1.0, (step + 1) / max(1, min(recipe.warm_up, total // 4)))
    progress = (step / total - DECAY_FROM) / (1 - DECAY_FROM)
    return warm * 0.5 * (1 + math.cos(math.pi * min(1, max(0, progress))))


def train(
    recipe: Recipe,
    team: Team,
    module: nn.Module,
    loss_of: Loss,
    checkpoint: Path,
    log: Callable[[str], None],
) -> None:
    """Trains `module` from scratch or from `checkpoint` until the last step is checkpointed.

    `loss_of(generator)` draws this worker's batch from `generator` and returns a scalar loss.
    Each step has a generator of its own, so that a resumed run draws what it would have drawn.
    Afterwards the module holds the EMA weights.
    """
    flat = FlatParameters(module)
    optimizer = torch.optim.AdamW(
        [flat.values], recipe.learning_rate, recipe.betas, weight_decay=recipe.weight_decay,
        fused=True,
    )  # fmt: skip
    average = flat.values.detach().clone()
    state = {"exp_avg": torch.zeros_like(average), "exp_avg_sq": torch.zeros_like(average)}
    step, total, spent = 0, UNDECIDED if recipe.minutes else recipe.steps, 0.0
    if checkpoint.exists():
        with safe_open(checkpoint, "pt") as file, torch.no_grad():
            meta = json.loads(file.metadata()["progress"])
            step, spent = meta["step"], meta["seconds"]
            total = meta["total"] if meta["total"] != UNDECIDED else total
            flat.values.copy_(file.get_tensor("values"))
            average.copy_(file.get_tensor("average"))
            for name, tensor in state.items():
                tensor.copy_(file.get_tensor(name))
        log(f"{recipe.stage}: resumed at step {step}")
    optimizer.state[flat.values] = {"step": torch.tensor(float(step)), **state}
    if team.rank == 0:
        team.total_steps[0] = total
    if team.workers > 1:
        team.barrier.wait()
    started = time.monotonic() - spent
    recent: list[float] = []
    while step < (total := int(team.total_steps[0])):
        # Others may share the cores: the length is settled only when the decay has to begin.
        elapsed = time.monotonic() - started
        undecided = team.rank == 0 and total == UNDECIDED
        if undecided and elapsed >= DECAY_FROM * 60 * (recipe.minutes or 0):
            team.total_steps[0] = total = math.ceil((step + 1) / DECAY_FROM)
            log(f"{recipe.stage}: {total} steps fit into {recipe.minutes} minutes")
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * schedule(recipe, step, total)
        flat.gradient.zero_()
        loss = loss_of(stream(recipe.seed, f"{recipe.stage}/{step}/{team.rank}"))
        loss.backward()
        team.average(flat.gradient)
        norm = float(flat.gradient.norm())
        if not math.isfinite(norm):
            raise FloatingPointError(f"{recipe.stage}: the gradient is {norm} at step {step}")
        flat.gradient.mul_(min(1.0, recipe.clip / (norm + 1e-12)))
        optimizer.step()
        step += 1
        # A young average forgets its random start faster.
        decay = min(recipe.ema, (1 + step) / (10 + step))
        average.lerp_(flat.values.detach(), 1 - decay)
        recent.append(float(loss.detach()))
        total = int(team.total_steps[0])
        if team.rank == 0 and (step % recipe.checkpoint_every == 0 or step >= total):
            seconds = time.monotonic() - started
            log(f"{recipe.stage}: step {step}/{total if total < UNDECIDED else '?'} "
                f"loss {sum(recent) / len(recent):.4f} gradient {norm:.3f} "
                f"{seconds:.0f} s")  # fmt: skip
            recent.clear()
            progress = {"step": step, "total": total, "seconds": seconds}
            tensors = {"values": flat.values.detach(), "average": average, **state}
            save_atomically(tensors, checkpoint, progress)
    with torch.no_grad():
        flat.values.copy_(average)
    if team.workers > 1:
        team.barrier.wait()


def save_atomically(tensors: dict[str, Tensor], path: Path, progress: dict[str, float]) -> None:
    """Writes a safetensors file under a temporary name and moves it over `path`."""
    partial = path.with_suffix(".partial")
    meta = {"step": str(progress["step"]), "progress": json.dumps(progress)}
    save_file({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, partial, meta)
    os.replace(partial, path)
