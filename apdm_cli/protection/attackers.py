"""Who attacks inside a protection, and in which outer step."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch

from apdm_cli.personalization.simulated import SimulatedAttacker
from apdm_cli.randomness import Streams


class Crew(Protocol):
    """Who attacks in which outer step."""

    def prepare(self) -> Iterator[int]:
        """Everything before the first outer step; yields after every attack step."""
        ...

    def turn(self, index: int) -> contextlib.AbstractContextManager[SimulatedAttacker]:
        """The attacker of the outer step `index`, ready to go on from θ + δ."""
        ...

    @property
    def alive(self) -> Sequence[tuple[SimulatedAttacker, int]]:
        """Who lives on when an outer step has ended, and the attack steps left of each life."""
        ...

    def state_dict(self) -> Any:
        """What outlives an outer step."""
        ...

    def load_state_dict(self, state: Any) -> None:
        """Go back to `state`."""
        ...


def in_turn(index: int, count: int, every: int = 1) -> int:
    """Whose turn it is in step `index` among `count` subjects: everybody once in every round.

    Each round begins one place later than the one before, so that whatever happens in every second
    step meets all of them. Where that is not enough (2 subjects and every fourth step), each round
    of rounds begins one place later too, and so on.

    Args:
        every: in every how many steps there is something that has to meet everybody alike (the
            learners of others).
    """
    place, span = index + index // count, count
    while math.gcd(every, span * count) > math.gcd(every, span):
        span *= count
        place += index // span
    return place % count


class TakingTurns:
    """Crews of several subjects, one after the other.

    Args:
        crews: one for each subject.
        every: see `in_turn`.
    """

    def __init__(self, crews: Sequence[Crew], every: int = 1) -> None:
        self.crews, self.every = list(crews), every

    def prepare(self) -> Iterator[int]:
        """Everything before the first outer step, of all crews."""
        for crew in self.crews:
            yield from crew.prepare()

    def turn(self, index: int) -> contextlib.AbstractContextManager[SimulatedAttacker]:
        """The attacker of the crew whose turn it is."""
        count = len(self.crews)
        return self.crews[in_turn(index, count, self.every)].turn(index // count)

    @property
    def alive(self) -> list[tuple[SimulatedAttacker, int]]:
        """Those of all crews."""
        return [found for crew in self.crews for found in crew.alive]

    def state_dict(self) -> list[Any]:
        """The state of every crew."""
        return [crew.state_dict() for crew in self.crews]

    def load_state_dict(self, state: Sequence[Any]) -> None:
        """Go back to `state`."""
        for crew, saved in zip(self.crews, state, strict=True):
            crew.load_state_dict(saved)


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
        with self.attacker.alone():
            yield self.attacker

    @property
    def alive(self) -> list[tuple[SimulatedAttacker, int]]:
        """Nobody."""
        return []

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
                with attacker.alone():
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
        with attacker.alone():
            yield attacker
        attacker.rest()

    @property
    def alive(self) -> list[tuple[SimulatedAttacker, int]]:
        """Everybody who was born and not yet followed by another."""
        found = [one for one in self._alive if one is not None]
        return [(attacker, max(0, life.bound - attacker.age)) for life, attacker in found]

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
