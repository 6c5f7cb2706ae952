"""Photos and what is added to them, within a bound that no eye should mind."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

LEVEL = 1 / 127.5  # what lies between two neighbouring values of 8 bits, in [-1, 1]


class Perturbation:
    """x′ = x + δ with |δ| ≤ η for every value, and x′ in [-1, 1].

    Args:
        clean: x, (N, 3, R, R) in [-1, 1], on the 256 levels that files have.
        eta: η, the bound in the L∞ norm, at least one level (2/255).

    Attributes:
        clean, eta: as given.
        delta: δ, of the shape of x; zero at first.
    """

    def __init__(self, clean: Tensor, eta: float) -> None:
        self.clean, self.eta = clean, eta
        self.delta = torch.zeros_like(clean)

    def __len__(self) -> int:
        return len(self.clean)

    @property
    def pixels(self) -> Tensor:
        """x′."""
        return self.clean + self.delta

    @torch.no_grad()
    def add(self, step: Tensor) -> None:
        """δ ← Π(δ + step): projected into the bound, and then so that x′ is a picture."""
        self.delta.add_(step).clamp_(-self.eta, self.eta)
        self.delta.copy_(torch.clamp(self.clean + self.delta, -1, 1) - self.clean)

    def pictures(self) -> Tensor:
        """x′ on the levels of 8 bits, uint8 (N, R, R, 3): the nearest within the bound."""
        most = math.floor(self.eta / LEVEL + 1e-6)
        clean = ((self.clean.cpu().double() + 1) / LEVEL).round()
        steps = (self.delta.cpu().double() / LEVEL).round().clamp(-most, most)
        return (clean + steps).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: δ alone, from which nobody gets the photos."""
        return {"delta": self.delta}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to `state`."""
        self.delta.copy_(state["delta"])
