"""An exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class WeightAverage:
    """shadow ← d · shadow + (1 − d) · weight, with d = min(decay, (1 + n) / (10 + n)) at step n.

    The warm-up of d is the usual one: otherwise the first weights would stay for 1 / (1 − decay)
    steps.
    """

    def __init__(self, parameters: Sequence[Tensor], decay: float) -> None:
        self.parameters, self.decay = list(parameters), decay
        self.shadow = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the weights of step `step` (from 0) in."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for shadow, parameter in zip(self.shadow, self.parameters, strict=True):
            shadow.lerp_(parameter, 1 - decay)

    @torch.no_grad()
    def apply(self) -> None:
        """Replace the weights by their average."""
        for shadow, parameter in zip(self.shadow, self.parameters, strict=True):
            parameter.copy_(shadow)

    @torch.no_grad()
    def load(self, shadow: Sequence[Tensor]) -> None:
        """Go back to a saved average."""
        for mine, saved in zip(self.shadow, shadow, strict=True):
            mine.copy_(saved)
