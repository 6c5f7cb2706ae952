"""Optimizers on flat parameter buffers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024, "Muon", quintic coefficients


def orthogonalized(matrix: Tensor, iterations: int = 5) -> Tensor:
    """Roughly U V^T of the matrix's singular value decomposition U S V^T (Newton-Schulz)."""
    a, b, c = NEWTON_SCHULZ
    x = matrix / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.mT if tall else x
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon:
    """Momentum orthogonalized per weight matrix; convolutions as (out, in * k * k) matrices.

    For the matrices of a network; the rest (norms, biases, first and last layer) stays with
    AdamW. `momentum` is a flat buffer of which `places` selects each matrix.
    """

    def __init__(self, matrices: list[nn.Parameter], momentum: list[Tensor]) -> None:
        self.matrices = matrices
        self.momentum = momentum

    @torch.no_grad()
    def step(self, learning_rate: float, beta: float = 0.95) -> None:
        """One step from the matrices' `.grad`."""
        for parameter, momentum in zip(self.matrices, self.momentum, strict=True):
            gradient = parameter.grad
            assert gradient is not None
            momentum.lerp_(gradient, 1 - beta)
            update = gradient.lerp(momentum, beta).reshape(parameter.shape[0], -1)
            scale = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
            update = orthogonalized(update).view_as(parameter)
            parameter.add_(update, alpha=-learning_rate * scale)
