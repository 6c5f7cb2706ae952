"""The training loop of all stages: AdamW, warm-up, a late decay, EMA, checkpoints.

The learning rate stays constant for the first `DECAY_FROM` of the steps and then falls to zero
along a cosine. Until the decay begins, the total number of steps does not matter, so that it can
be chosen from the measured speed and a budget in minutes. The run is determined by the seed, the
device, the number of workers and the total number of steps.

On a GPU these networks are so small that launching kernels takes longer than running them. There
the forward and backward passes are in bfloat16 (over fp32 weights and moments), and one step is
recorded as a CUDA graph and played back.
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

from pocket_training.parallel import Team
from pocket_training.streams import stream

DECAY_FROM = 0.6
ALIGNMENT = 16  # numbers; keeps every parameter on a cache line of the flat buffer
UNDECIDED = 10**9
HALF_ON = ("cuda",)  # without bf16 instructions it is slower by far, and CPUs rarely say so
EAGER_STEPS = 11  # before a step is recorded: cuDNN chooses its kernels in them
IN_FLIGHT = 20  # steps that may wait on the GPU, so that the clock of a budget is not ahead

Batch = tuple[Tensor, ...]


@dataclass(frozen=True)
class Lesson:
    """What a step learns from.

    Attributes:
        draw: a batch from a generator, which lives on the device of the training.
        loss: the scalar loss of a batch. It draws nothing and never waits for the device, so
            that it can be recorded.
    """

    draw: Callable[[torch.Generator], Batch]
    loss: Callable[..., Tensor]


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
    With `half`, the module computes in bfloat16: its parameters and gradients are views of
    bfloat16 buffers, `refresh` copies the fp32 values there and `collect` fetches the gradients.
    """

    def __init__(self, module: nn.Module, half: bool = False) -> None:
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
        self.half = half
        self._used = self.values.data.bfloat16() if half else self.values.data
        self._found = self.gradient.bfloat16() if half else self.gradient
        with torch.no_grad():
            for parameter, place in zip(self.parameters, self.places, strict=True):
                self.values[place].copy_(parameter.reshape(-1))
                parameter.data = self._used[place].view(parameter.shape)
                parameter.grad = self._found[place].view(parameter.shape)
            if half:
                for parameter in module.parameters():  # those that this stage leaves alone
                    if not parameter.requires_grad:
                        parameter.data = parameter.data.bfloat16()
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Gives the module the current values."""
        if self.half:
            self._used.copy_(self.values)

    def clear(self) -> None:
        """Sets the gradients to zero."""
        self._found.zero_()

    def collect(self) -> None:
        """Brings the module's gradients into `gradient`."""
        if self.half:
            self.gradient.copy_(self._found)


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


class Learner:
    """One network in training: weights, their average, the optimizer; `learn` is one step.

    Everything that changes from step to step is a tensor of the device (rate, decay of the
    average, loss, norm of the gradient), so that a recorded step reads and writes it.
    """

    def __init__(self, recipe: Recipe, team: Team, module: nn.Module, lesson: Lesson) -> None:
        device = next(module.parameters()).device
        self.recipe, self.team, self.lesson, self.device = recipe, team, lesson, device
        graphed = device.type == "cuda"
        self.flat = FlatParameters(module, half=device.type in HALF_ON)
        self.average = self.flat.values.detach().clone()
        self.rate, self.decay, self.loss, self.norm, self.summed = torch.zeros(5, device=device)
        self.optimizer = torch.optim.AdamW(
            [self.flat.values], self.rate if graphed else recipe.learning_rate, recipe.betas,
            weight_decay=recipe.weight_decay, fused=True, capturable=graphed,
        )  # fmt: skip
        if graphed:
            self.rate = self.optimizer.param_groups[0]["lr"]
        self.state = {
            "exp_avg": torch.zeros_like(self.average),
            "exp_avg_sq": torch.zeros_like(self.average),
        }

    def begin(self, step: int) -> None:
        """Tells the optimizer which step comes next."""
        count = torch.tensor(float(step), device=self.device)
        self.optimizer.state[self.flat.values] = {"step": count, **self.state}

    def set(self, rate: float, decay: float) -> None:
        """The learning rate and the decay of the average for the next step."""
        self.rate.fill_(rate)
        self.decay.fill_(decay)
        if self.device.type != "cuda":
            self.optimizer.param_groups[0]["lr"] = rate

    def learn(self, batch: Batch) -> None:
        """One step on `batch`."""
        flat = self.flat
        flat.clear()
        loss = self.lesson.loss(*batch)
        loss.backward()
        flat.collect()
        self.team.average(flat.gradient)
        self.norm.copy_(flat.gradient.norm())
        flat.gradient.mul_((self.recipe.clip / (self.norm + 1e-12)).clamp(max=1.0))
        self.optimizer.step()
        flat.refresh()
        self.average.lerp_(flat.values.detach(), 1 - self.decay)
        self.summed += loss.detach()

    def recorded(self, batch: Batch) -> Callable[[Batch], None]:
        """`learn` as a CUDA graph for batches of these shapes; recording takes no step."""
        places = tuple(tensor.clone() for tensor in batch)
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        # The backward pass runs in a thread of its own, whose cuDNN may ask the driver for
        # things that the strictest mode forbids.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self.learn(places)

        def play(batch: Batch) -> None:
            for place, tensor in zip(places, batch, strict=True):
                place.copy_(tensor)
            graph.replay()

        return play

    def check(self, step: int) -> None:
        """Raises FloatingPointError if the last gradient was not finite."""
        if not math.isfinite(float(self.norm)):
            raise FloatingPointError(
                f"{self.recipe.stage}: the gradient is {float(self.norm)} at step {step}"
            )


def train(
    recipe: Recipe,
    team: Team,
    module: nn.Module,
    lesson: Lesson,
    checkpoint: Path,
    log: Callable[[str], None],
) -> None:
    """Trains `module` from scratch or from `checkpoint` until the last step is checkpointed.

    Each step has a generator of its own, so that a resumed run draws what it would have drawn.
    Afterwards the module holds the EMA weights.
    """
    if next(module.parameters()).is_cuda:
        torch.cuda.synchronize()  # what prepared the stage ran on the default stream
        with torch.cuda.stream(torch.cuda.Stream()):  # which must not take part in a recording
            _train(recipe, team, module, lesson, checkpoint, log)
            torch.cuda.synchronize()
    else:
        _train(recipe, team, module, lesson, checkpoint, log)


def _train(
    recipe: Recipe,
    team: Team,
    module: nn.Module,
    lesson: Lesson,
    checkpoint: Path,
    log: Callable[[str], None],
) -> None:
    learner = Learner(recipe, team, module, lesson)
    flat, on_gpu = learner.flat, learner.device.type == "cuda"
    step, total, spent = 0, UNDECIDED if recipe.minutes else recipe.steps, 0.0
    if checkpoint.exists():
        with safe_open(checkpoint, "pt") as file, torch.no_grad():
            meta = json.loads(file.metadata()["progress"])
            step, spent = meta["step"], meta["seconds"]
            total = meta["total"] if meta["total"] != UNDECIDED else total
            flat.values.copy_(file.get_tensor("values"))
            learner.average.copy_(file.get_tensor("average"))
            for name, tensor in learner.state.items():
                tensor.copy_(file.get_tensor(name))
        flat.refresh()
        log(f"{recipe.stage}: resumed at step {step}")
    learner.begin(step)
    if team.rank == 0:
        team.total_steps[0] = total
    if team.workers > 1:
        team.barrier.wait()
    started = time.monotonic() - spent
    learn: Callable[[Batch], None] = learner.learn
    first, noted = step, step
    while step < (total := int(team.total_steps[0])):
        # Others may share the cores: the length is settled only when the decay has to begin.
        elapsed = time.monotonic() - started
        undecided = team.rank == 0 and total == UNDECIDED
        if undecided and elapsed >= DECAY_FROM * 60 * (recipe.minutes or 0):
            team.total_steps[0] = total = math.ceil((step + 1) / DECAY_FROM)
            log(f"{recipe.stage}: {total} steps fit into {recipe.minutes} minutes")
        # A young average forgets its random start faster.
        learner.set(
            recipe.learning_rate * schedule(recipe, step, total),
            min(recipe.ema, (2 + step) / (11 + step)),
        )
        name = f"{recipe.stage}/{step}/{team.rank}"
        batch = lesson.draw(stream(recipe.seed, name, learner.device))
        if on_gpu and step == first + EAGER_STEPS:
            try:
                learn = learner.recorded(batch)
            except RuntimeError as error:
                cause = str(error.__context__ or error).partition("\n")[0]
                log(f"{recipe.stage}: steps are not recorded, which is slower: {cause}")
        learn(batch)
        step += 1
        if not on_gpu:
            learner.check(step - 1)
        elif step % IN_FLIGHT == 0:
            torch.cuda.synchronize()
        total = int(team.total_steps[0])
        if team.rank == 0 and (step % recipe.checkpoint_every == 0 or step >= total):
            learner.check(step - 1)
            seconds = time.monotonic() - started
            log(f"{recipe.stage}: step {step}/{total if total < UNDECIDED else '?'} "
                f"loss {float(learner.summed) / (step - noted):.4f} "
                f"gradient {float(learner.norm):.3f} {seconds:.0f} s")  # fmt: skip
            learner.summed.zero_()
            noted = step
            progress = {"step": step, "total": total, "seconds": seconds}
            tensors = {"values": flat.values.detach(), "average": learner.average, **learner.state}
            save_atomically(tensors, checkpoint, progress)
    with torch.no_grad():
        flat.values.copy_(learner.average)
    flat.refresh()
    if team.workers > 1:
        team.barrier.wait()


def save_atomically(tensors: dict[str, Tensor], path: Path, progress: dict[str, float]) -> None:
    """Writes a safetensors file under a temporary name and moves it over `path`."""
    partial = path.with_suffix(".partial")
    meta = {"step": str(progress["step"]), "progress": json.dumps(progress)}
    save_file({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, partial, meta)
    os.replace(partial, path)
