"""Simulated attackers: personalizations that go on inside a protection.

An attacker trains θ′ = θ + δ. Of its weights, those that θ has too are *displaced* by δ; those that
only it has (adapters, a text encoder, a new word) are its own; and those of θ that it does not
train are *tied*: they share θ's memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from apdm_cli.diffusion.condition import Condition
from apdm_cli.diffusion.denoiser import Denoiser
from apdm_cli.personalization.dreambooth import PictureSource
from apdm_cli.personalization.loop import Step, train
from apdm_cli.protection.low_memory import load_optimizer
from apdm_cli.randomness import Streams


class SimulatedAttacker:
    """One personalization on top of θ, a few steps at a time.

    Between two turns of a persistent attacker its displaced weights hold δ and not θ′: that way it
    needs no more memory than the paper's path.

    Args:
        start: θ's U-Net.
        denoiser: θ′, in its own memory (what is tied aside).
        parameters: what trains, of θ′ and besides.
        loss: the attack's; draws a batch on every call.
        optimizer: over `parameters`.
        learning_rate: for a step's index within the life.
        personal: how it embeds c_per, a batch of one; None: as everybody.
        max_grad_norm: clips its gradient; 0 does not.
        pictures: what it learns, for those who are to be taught.
    """

    def __init__(
        self,
        start: nn.Module,
        denoiser: Denoiser,
        parameters: Sequence[nn.Parameter],
        loss: Callable[[], Tensor],
        optimizer: torch.optim.Optimizer,
        learning_rate: Callable[[int], float],
        *,
        personal: Callable[[], Condition] | None = None,
        max_grad_norm: float = 0.0,
        pictures: PictureSource | None = None,
    ) -> None:
        self.denoiser, self.parameters, self.loss = denoiser, list(parameters), loss
        self.optimizer, self.learning_rate = optimizer, learning_rate
        self.max_grad_norm, self.pictures = max_grad_norm, pictures
        self._personal = personal
        self.age = 0
        trained = {id(parameter) for parameter in self.parameters}
        mine = {_plain_name(name): weight for name, weight in denoiser.unet.named_parameters()}
        pairs = [(weight, mine[name]) for name, weight in start.named_parameters()]
        self._displaced = [(weight, own) for weight, own in pairs if id(own) in trained]
        self._tied = [(weight, own) for weight, own in pairs if id(own) not in trained]
        for weight, own in self._tied:
            own.data = weight.data
        shared = {id(own) for _, own in self._displaced}
        own_weights = [weight for weight in self.parameters if id(weight) not in shared]
        self._own = [(weight, weight.detach().clone()) for weight in own_weights]

    @property
    def personal(self) -> Condition | None:
        """c_per as it embeds it, without gradients; None: as everybody does."""
        if self._personal is None:
            return None
        with torch.no_grad():
            return self._personal()

    def steps(self, count: int) -> Iterator[Step]:
        """Take `count` attack steps, yielding after each: gradients may be read or added then."""
        for step in train(
            self.loss,
            self.parameters,
            self.optimizer,
            range(self.age, self.age + count),
            self.learning_rate,
            max_grad_norm=self.max_grad_norm,
        ):
            self.age += 1
            yield step

    @contextlib.contextmanager
    def open_to_gradients(self) -> Iterator[None]:
        """Inside, the weights that are tied to θ get gradients too."""
        for _, own in self._tied:
            own.requires_grad_(True)
        try:
            yield
        finally:
            for _, own in self._tied:
                own.requires_grad_(False)

    def accumulate(self) -> None:
        """g ← g + ∇_θ′, where g is the `.grad` of θ."""
        for weight, own in (*self._displaced, *self._tied):
            if own.grad is None:
                continue
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            weight.grad.add_(own.grad)
        for _, own in self._tied:
            own.grad = None

    @torch.no_grad()
    def restart(self) -> None:
        """θ′ ← θ with a fresh optimizer, all in place: the paper's path begins."""
        self.age = 0
        if self._displaced:
            weights, own = zip(*self._displaced, strict=True)
            torch._foreach_copy_([*own], [*weights])
        for own_weight, initial in self._own:
            own_weight.copy_(initial)
        if not isinstance(self.optimizer, torch.optim.AdamW):
            self.optimizer.state.clear()  # 8-bit states hold more than moments
            return
        for state in self.optimizer.state.values():
            for value in state.values():
                value.zero_()

    @torch.no_grad()
    def follow(self) -> None:
        """θ′ ← θ + δ: θ has moved since `rest`."""
        for weight, own in self._displaced:
            own.add_(weight)

    @torch.no_grad()
    def rest(self) -> None:
        """δ ← θ′ − θ, in the place of θ′; gradients are given back."""
        for weight, own in self._displaced:
            own.sub_(weight)
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Its weights (δ where they are displaced), its optimizer and its age."""
        return {
            "parameters": [parameter.detach() for parameter in self.parameters],
            "optimizer": self.optimizer.state_dict(),
            "age": self.age,
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to `state`."""
        for parameter, saved in zip(self.parameters, state["parameters"], strict=True):
            parameter.copy_(saved)
        load_optimizer(self.optimizer, state["optimizer"])
        self.age = state["age"]


def _plain_name(name: str) -> str:
    """Name of a weight as the plain U-Net has it, where adapters wrap its layers."""
    return name.replace(".base_layer", "")


class Crew(Protocol):
    """Who attacks in which outer step."""

    def prepare(self) -> Iterator[int]:
        """Everything before the first outer step; yields after every attack step."""
        ...

    def turn(self, index: int) -> contextlib.AbstractContextManager[SimulatedAttacker]:
        """The attacker of the outer step `index`, ready to go on from θ + δ."""
        ...

    def state_dict(self) -> Any:
        """What outlives an outer step."""
        ...

    def load_state_dict(self, state: Any) -> None:
        """Go back to `state`."""
        ...


class RestartedPath:
    """The paper's: one attacker, which starts afresh from θ in every outer step."""

    def __init__(self, attacker: SimulatedAttacker) -> None:
        self.attacker = attacker

    def prepare(self) -> Iterator[int]:
        """There is nothing to prepare."""
        return iter(())

    @contextlib.contextmanager
    def turn(self, index: int) -> Iterator[SimulatedAttacker]:
        """The attacker, restarted."""
        self.attacker.restart()
        yield self.attacker

    def state_dict(self) -> list[Any]:
        """θ′ and the inner optimizer start afresh in every outer step: nothing is kept."""
        return []

    def load_state_dict(self, state: Any) -> None:
        """There is nothing to go back to."""


@dataclass(frozen=True)
class Life:
    """What is drawn when an attacker is born.

    Attributes:
        kind: index of what it is, or of whom it learns.
        bound: attack steps that it lives.
        rate: multiple of the attack's learning rate.
        order: a permutation of the photos, for kinds that have only some.
    """

    kind: int
    bound: int
    rate: float
    order: tuple[int, ...]


class Lives:
    """Draws lives, from a stream of its own.

    Args:
        weights: relative frequency of every kind.
        ages, rates: bounds, log-uniform.
        photos: number of photos.
    """

    def __init__(
        self,
        weights: Sequence[float],
        ages: tuple[int, int],
        rates: tuple[float, float],
        photos: int,
        streams: Streams,
        name: str,
    ) -> None:
        self.weights = torch.tensor(list(weights), dtype=torch.float64)
        self.ages, self.rates, self.photos = ages, rates, photos
        self._generator = streams.generator(f"{name}/lives")

    def draw(self) -> Life:
        """The next life."""
        kind, age, rate = torch.rand(3, generator=self._generator, dtype=torch.float64).tolist()
        order = torch.randperm(self.photos, generator=self._generator)
        steps = self.weights.cumsum(0) / self.weights.sum()
        return Life(
            min(int((steps <= kind).sum()), len(self.weights) - 1),
            round(_between(*self.ages, age)),
            _between(*self.rates, rate),
            tuple(order.tolist()),
        )


def _between(low: float, high: float, share: float) -> float:
    """Log-uniform: `share` of the way from `low` to `high` on a logarithmic scale."""
    return float(low * (high / low) ** share)


class PersistentAttackers:
    """Attackers that live on while θ moves, taking turns; past its bound one is born anew.

    Args:
        count: P.
        lives: draws what a newborn is.
        born: (slot, life) → an attacker with δ = 0 on θ as it is now.
        staggered: attacker j first walks bound · j / P steps before the first outer step.
    """

    def __init__(
        self,
        count: int,
        lives: Lives,
        born: Callable[[int, Life], SimulatedAttacker],
        *,
        staggered: bool,
    ) -> None:
        self.count, self.lives, self.born, self.staggered = count, lives, born, staggered
        self._alive: list[tuple[Life, SimulatedAttacker] | None] = [None] * count

    def prepare(self) -> Iterator[int]:
        """Bear everybody, and let them walk their part of a life on φ."""
        for slot in range(self.count):
            life, attacker = self._bear(slot)
            if self.staggered:
                attacker.follow()
                for _ in attacker.steps(round(life.bound * slot / self.count)):
                    yield slot
                attacker.rest()

    @contextlib.contextmanager
    def turn(self, index: int) -> Iterator[SimulatedAttacker]:
        """Attacker `index` mod P at θ + δ, reborn where its life is over."""
        slot = index % self.count
        found = self._alive[slot]
        if found is None or found[1].age >= found[0].bound:
            self._alive[slot] = found = None  # its memory first
            found = self._bear(slot)
        _, attacker = found
        attacker.follow()
        yield attacker
        attacker.rest()

    def state_dict(self) -> list[Any]:
        """Every attacker's life and state."""
        return [
            None if found is None else {"life": asdict(found[0]), **found[1].state_dict()}
            for found in self._alive
        ]

    def load_state_dict(self, state: Sequence[Any]) -> None:
        """Go back to `state`; moves streams, which have to be restored after this."""
        for slot, saved in enumerate(state):
            if saved is None:
                self._alive[slot] = None
                continue
            life = Life(**{**saved["life"], "order": tuple(saved["life"]["order"])})
            attacker = self.born(slot, life)
            attacker.load_state_dict(saved)
            self._alive[slot] = (life, attacker)

    def _bear(self, slot: int) -> tuple[Life, SimulatedAttacker]:
        life = self.lives.draw()
        attacker = self.born(slot, life)
        attacker.rest()
        self._alive[slot] = (life, attacker)
        return life, attacker
