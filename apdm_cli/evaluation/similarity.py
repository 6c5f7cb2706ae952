"""Cosine similarity of feature sets; nothing here knows where the features came from."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of every pair, float64: features (M, D) and (N, D) to (M, N) in [-1, 1]."""
    return F.normalize(a.double(), dim=-1) @ F.normalize(b.double(), dim=-1).T


def paired_cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of the i-th with the i-th: features (N, D) twice to (N,), float64."""
    return (F.normalize(a.double(), dim=-1) * F.normalize(b.double(), dim=-1)).sum(-1)


def off_diagonal_mean(matrix: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean of a square matrix (N, N) without its diagonal, N >= 2.

    Args:
        weights: how often each item counts, (..., N); one mean per row of weights comes back.
            Two copies of one item are no pair.
    """
    count = matrix.shape[0]
    weights = matrix.new_ones(count) if weights is None else weights.to(matrix)
    rest = matrix - matrix.diagonal().diag()
    total = (weights @ rest * weights).sum(-1)
    pairs = weights.sum(-1).square() - weights.square().sum(-1)
    return total / pairs
