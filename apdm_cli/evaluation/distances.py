"""Distances between two sets of features: Fréchet (FID) and kernel (KID), in float64."""

from __future__ import annotations

import torch
from torch import Tensor

KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Fréchet distance of two Gaussians fitted to features (N, D) and (M, D), N and M >= 2.

    |mu_x - mu_y|² + tr(C_x + C_y - 2 (C_x C_y)^½) (Heusel et al. 2017, eq. 6). With C = AᵀA, the
    trace of (C_x C_y)^½ is the sum of the singular values of A_x A_yᵀ: no matrix root is taken, so
    that fewer samples than dimensions, where `sqrtm` is unstable, are no special case.

    Raises:
        ValueError: fewer than two samples on a side, or other dimensions.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"features of shape {tuple(x.shape)} and {tuple(y.shape)}")
    if min(len(x), len(y)) < 2:
        raise ValueError("a covariance needs at least two samples")
    x, y = x.double(), y.double()
    root_x, root_y = _covariance_root(x), _covariance_root(y)
    cross = torch.linalg.svdvals(root_x @ root_y.T).sum()
    means = (x.mean(0) - y.mean(0)).square().sum()
    return float(means + root_x.square().sum() + root_y.square().sum() - 2 * cross)


def _covariance_root(x: Tensor) -> Tensor:
    """A with AᵀA = the unbiased covariance of x (N, D); at most D rows."""
    centred = (x - x.mean(0)) / (len(x) - 1) ** 0.5
    return torch.linalg.qr(centred, mode="r").R if len(x) > x.shape[1] else centred


def kernel_distance(
    x: Tensor,
    y: Tensor,
    generator: torch.Generator,
    subsets: int = KID_SUBSETS,
    subset_size: int = KID_SUBSET_SIZE,
) -> float:
    """Unbiased squared MMD with the kernel (⟨x, y⟩ / D + 1)³ (Bińkowski et al. 2018).

    Args:
        x, y: features (N, D) and (M, D), N and M >= 2.
        generator: CPU generator for the subsets.
        subsets, subset_size: the mean of that many draws without replacement; all samples at
            once where neither side has more than `subset_size`.
    """
    x, y = x.double(), y.double()
    if max(len(x), len(y)) <= subset_size:
        return float(_squared_mmd(x, y))
    values = [
        _squared_mmd(_subset(x, subset_size, generator), _subset(y, subset_size, generator))
        for _ in range(subsets)
    ]
    return float(torch.stack(values).mean())


def _subset(x: Tensor, size: int, generator: torch.Generator) -> Tensor:
    return x[torch.randperm(len(x), generator=generator)[:size].to(x.device)]


def _squared_mmd(x: Tensor, y: Tensor) -> Tensor:
    return (
        _mean_without_diagonal(_kernel(x, x))
        + _mean_without_diagonal(_kernel(y, y))
        - (2 * _kernel(x, y).mean())
    )


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _mean_without_diagonal(kernel: Tensor) -> Tensor:
    count = len(kernel)
    return (kernel.sum() - kernel.diagonal().sum()) / (count * (count - 1))
