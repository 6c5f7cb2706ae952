"""Averages of the weights over the steps of a training."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Decay = Callable[[int], float]


def exponential(decay: float) -> Decay:
    """d_n = min(`decay`, (1 + n) / (10 + n)) at step n.

    The warm-up is the usual one: otherwise the first weights would stay for 1 / (1 − decay) steps.
    It also bounds how far back the average of n steps reaches: some n / 9 of them.
    """
    return lambda step: min(decay, (1 + step) / (10 + step))


def mean_from(first: int) -> Decay:
    """d_n that makes the average the mean of the weights of the steps `first` ... n, all alike.

    Up to step `first` it is the weights themselves. (Suffix averaging: arXiv 1109.5647.)
    """
    return lambda step: max(step - first, 0) / (max(step - first, 0) + 1)


class WeightAverage:
    """shadow ← d_n · shadow + (1 − d_n) · weight at step n."""

    def __init__(self, parameters: Sequence[Tensor], decay: Decay) -> None:
        self.parameters, self.decay = list(parameters), decay
        self.shadow = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the weights of step `step` (from 0) in."""
        decay = self.decay(step)
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
