"""What a search tries: points spread over several settings at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from apdm_attacks.halving import logarithmic_grid
from apdm_attacks.targets import ADAPTED, Target

if TYPE_CHECKING:
    import torch

Value = TypeVar("Value")


@dataclass(frozen=True)
class Candidate:
    """One way to train, whose number of steps is still open.

    Attributes:
        rank: of adapters; 0 where weights themselves train.
    """

    target: Target
    rank: int
    learning_rate: float

    def as_point(self) -> dict[str, Any]:
        """For the record of a search."""
        return asdict(self)


def spread(config: Any, targets: Sequence[Target], generator: torch.Generator) -> list[Candidate]:
    """`config.candidates` of them: a Latin hypercube (McKay, Beckman and Conover, 1979).

    Every rate of a logarithmic grid comes once, every target and every rank as often as any other,
    each in an order of its own.
    """
    count = config.candidates
    rates = logarithmic_grid(config.learning_rate, config.highest, count)
    columns = (_shuffled(values, count, generator) for values in (targets, config.ranks, rates))
    return [
        Candidate(target, rank, rate * config.adapter_rates)
        if target in ADAPTED
        else Candidate(target, 0, rate)
        for target, rank, rate in zip(*columns, strict=True)
    ]


def _shuffled(values: Sequence[Value], count: int, generator: torch.Generator) -> list[Value]:
    import torch

    order = torch.randperm(count, generator=generator).tolist()
    return [values[index % len(values)] for index in order]
