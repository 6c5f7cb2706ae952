"""Attackers of earlier subjects, who stay where they were while θ moves on for somebody else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from apdm_cli.diffusion.condition import Condition
from apdm_cli.diffusion.denoiser import Denoiser
from apdm_cli.diffusion.displacements import Displacement
from apdm_cli.personalization.dreambooth import PictureSource
from apdm_cli.protection.preservation import PreservationDraw, TypicalError, preservation_error


@dataclass(frozen=True)
class Held:
    """One attacker of an earlier subject, who does not learn any more.

    Attributes:
        source: draws from pictures that φ made of the subject's class.
        personal: c_per of the subject, a batch of one.
    """

    displacement: Displacement
    source: PictureSource
    personal: Condition


class DisplacedPreservation:
    """|ε_θ+δ − ε_φ+δ|² under c_per of an earlier subject, for a fixed δ of one of its attackers.

    φ is the model that protects that subject already: at φ + δ the attacker fails, and θ, which
    moves on for somebody else, goes on failing there as φ does. Not in the paper; photos of the
    earlier subject are not needed, pictures of the class that φ drew will do.

    Args:
        start: θ's network.
        reference: φ.
        twin: a network of its own, which becomes φ + δ and θ + δ in turn.
        typical: ē(t) to divide by, where the preservation does.
    """

    def __init__(
        self,
        start: nn.Module,
        reference: Denoiser,
        twin: Denoiser,
        held: Sequence[Held],
        batch_size: int,
        typical: TypicalError | None = None,
    ) -> None:
        self.start, self.reference, self.twin = start, reference, twin
        self.held, self.batch_size, self.typical = list(held), batch_size, typical

    @contextlib.contextmanager
    def turn(self, index: int) -> Iterator[Tensor]:
        """The mean error of the outer step `index`, at one attacker after the other.

        What the block takes of its gradient is added to the `.grad` of θ.
        """
        held = self.held[index % len(self.held)]
        drawn = held.source.draw(self.batch_size)
        condition = held.personal.expand(self.batch_size)
        network = self.twin.network
        held.displacement.place(network, self.reference.network)
        with torch.no_grad():
            (wanted,) = self.twin.predict_each([drawn], [condition])
        held.displacement.place(network, self.start)
        network.requires_grad_(True)
        try:
            (found,) = self.twin.predict_each([drawn], [condition])
            kept = PreservationDraw(drawn, condition, distill=True)
            yield preservation_error(self.twin, kept, found, wanted, self.typical).mean()
            self._accumulate()
        finally:
            network.requires_grad_(False)
            network.zero_grad(set_to_none=True)

    @torch.no_grad()
    def _accumulate(self) -> None:
        """g ← g + ∇_θ+δ, which is ∇_θ: δ is fixed."""
        pairs = zip(self.start.parameters(), self.twin.network.parameters(), strict=True)
        for weight, own in pairs:
            if own.grad is None:
                continue
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            weight.grad.add_(own.grad)
