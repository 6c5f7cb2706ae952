"""95 % confidence intervals by bootstrap, the same ones every time for the same values."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from apdm_cli.evaluation.similarity import off_diagonal_mean
from apdm_cli.randomness import Streams

REPLICATES = 2000
TAILS = (0.025, 0.975)
Interval = tuple[float | None, float | None]
NONE: Interval = (None, None)


def mean_interval(values: Tensor, replicates: int = REPLICATES) -> Interval:
    """Interval of the mean of values (N,), resampling the pictures. None for one value."""
    if len(values) < 2:
        return NONE
    # Sorted, so that the order of the pictures does not reach the random draws.
    ordered = values.double().cpu().sort().values
    return _quantiles(_counts(len(ordered), replicates, "pictures") @ ordered / len(ordered))


def pairs_interval(matrix: Tensor, replicates: int = REPLICATES) -> Interval:
    """Interval of the mean of a photos x pictures matrix (M, N), resampling both.

    A handful of photos is a sample of the subject, as the pictures are one of the model: the
    interval holds both kinds of luck. None for fewer than two pictures.
    """
    photos, pictures = matrix.shape
    if pictures < 2:
        return NONE
    ordered = matrix.double().cpu()
    ordered = ordered[ordered.mean(1).argsort()][:, ordered.mean(0).argsort()]
    rows = _counts(photos, replicates, "photos")
    columns = _counts(pictures, replicates, "pictures")
    return _quantiles((rows @ ordered * columns).sum(1) / (photos * pictures))


def off_diagonal_interval(matrix: Tensor, replicates: int = REPLICATES) -> Interval:
    """Interval of a square matrix's mean without its diagonal (N, N), resampling the items."""
    if len(matrix) < 3:
        return NONE
    order = matrix.double().cpu().mean(0).argsort()
    ordered = matrix.double().cpu()[order][:, order]
    means = off_diagonal_mean(ordered, _counts(len(ordered), replicates, "pictures"))
    return _quantiles(means[means.isfinite()])


def distance_interval(
    value: float, distance: Callable[[Tensor, Tensor], float], x: Tensor, y: Tensor
) -> Interval:
    """Interval of a set distance, value ± 1.96 bootstrap standard deviations.

    Resampling repeats pictures and thereby shifts a Fréchet distance upwards, so its replicates
    are used for their spread only. The interval is the sampling error at this number of pictures;
    the bias that a finite number brings stays in the value.
    """
    small = min(len(x), len(y), x.shape[1]) <= 256
    replicates = 100 if small else 10
    x, y = (side[side[:, 0].argsort()] for side in (x.double(), y.double()))
    streams = Streams(0)
    values = []
    for _ in range(replicates):
        chosen = [
            torch.randint(len(side), (len(side),), generator=streams.generator(name))
            for side, name in ((x, "bootstrap/x"), (y, "bootstrap/y"))
        ]
        values.append(distance(x[chosen[0].to(x.device)], y[chosen[1].to(y.device)]))
    spread = 1.96 * float(torch.tensor(values, dtype=torch.float64).std())
    return value - spread, value + spread


def _counts(items: int, replicates: int, name: str) -> Tensor:
    """How often each of `items` is drawn in each replicate, (replicates, items), float64."""
    generator = Streams(0).generator(f"bootstrap/{name}")
    drawn = torch.randint(items, (replicates, items), generator=generator)
    counts = torch.zeros(replicates, items, dtype=torch.float64)
    return counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))


def _quantiles(values: Tensor) -> Interval:
    low, high = torch.quantile(values, torch.tensor(TAILS, dtype=values.dtype)).tolist()
    return low, high
