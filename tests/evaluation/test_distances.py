"""Fréchet and kernel distance against independent calculations on the same features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import linalg

from apdm_cli.evaluation.distances import frechet_distance, kernel_distance
from apdm_cli.randomness import Streams

GENERATOR = Streams(0)


def features(count: int, width: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return torch.randn(count, width, generator=generator, dtype=torch.float64) @ mixing + shift


def by_sqrtm(x: torch.Tensor, y: torch.Tensor) -> float:
    """Heusel et al. 2017, eq. 6, with scipy's matrix root."""
    a, b = x.numpy(), y.numpy()
    cx, cy = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = linalg.sqrtm(cx @ cy).real
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cx + cy - 2 * root))


def test_frechet_distance_is_the_published_formula() -> None:
    x, y = features(60, 8, 0), features(90, 8, 1, shift=0.5)
    assert frechet_distance(x, y) == pytest.approx(by_sqrtm(x, y), rel=1e-9)


@pytest.mark.parametrize("count", [10, 60])
def test_frechet_distance_agrees_with_torch_fidelity(count: int) -> None:
    """Also for fewer samples than dimensions, where covariances are singular."""
    metric_fid = pytest.importorskip("torch_fidelity.metric_fid")
    x, y = features(count, 20, 2), features(count, 20, 3)
    statistics = [metric_fid.fid_features_to_statistics(side) for side in (x, y)]
    expected = metric_fid.fid_statistics_to_metric(*statistics, False)
    assert frechet_distance(x, y) == pytest.approx(expected["frechet_inception_distance"], rel=1e-5)


def test_frechet_distance_agrees_with_piq() -> None:
    """piq's matrix root is iterative and stops early: three digits."""
    import piq

    x, y = features(200, 6, 4), features(200, 6, 5)
    assert frechet_distance(x, y) == pytest.approx(float(piq.FID()(x, y)), rel=5e-3)


def test_frechet_distance_of_a_set_with_itself_is_zero_and_noise_raises_it() -> None:
    x = features(50, 12, 6)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(x, x[torch.randperm(50)]) == pytest.approx(0, abs=1e-8)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    rising = [frechet_distance(x, x + strength * noise) for strength in (0.0, 0.5, 1.0, 2.0, 4.0)]
    assert rising == sorted(rising)
    assert rising[-1] > 1


def test_frechet_distance_is_symmetric_and_computes_in_double_precision() -> None:
    x, y = features(30, 40, 7), features(25, 40, 8)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x), rel=1e-9)
    assert frechet_distance(x.float(), y.float()) == pytest.approx(frechet_distance(x, y), rel=1e-5)


def test_frechet_distance_refuses_what_has_no_covariance() -> None:
    with pytest.raises(ValueError, match="two samples"):
        frechet_distance(features(1, 4, 0), features(5, 4, 0))
    with pytest.raises(ValueError, match="shape"):
        frechet_distance(features(5, 4, 0), features(5, 3, 0))


def test_kernel_distance_is_the_unbiased_mmd_with_sklearns_polynomial_kernel() -> None:
    pairwise = pytest.importorskip("sklearn.metrics.pairwise")
    x, y = features(20, 8, 9), features(30, 8, 10)
    kernel = lambda a, b: pairwise.polynomial_kernel(a.numpy(), b.numpy(), degree=3, coef0=1)  # noqa: E731
    xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
    off = lambda k: (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1))  # noqa: E731
    expected = off(xx) + off(yy) - 2 * xy.mean()
    found = kernel_distance(x, y, GENERATOR.generator("a"))
    assert found == pytest.approx(expected, rel=1e-9)


def test_kernel_distance_of_subsets_is_near_that_of_everything_and_repeats() -> None:
    x, y = features(80, 4, 11), features(80, 4, 12, shift=1.0)
    whole = kernel_distance(x, y, GENERATOR.generator("b"))
    parts = [
        kernel_distance(x, y, Streams(0).generator("c"), subsets=60, subset_size=40)
        for _ in range(2)
    ]
    assert parts[0] == parts[1]
    assert parts[0] == pytest.approx(whole, rel=0.2)


def test_kernel_distance_of_two_samples_of_one_distribution_is_about_zero() -> None:
    """Unbiased: negative about as often as positive."""
    generator = torch.Generator().manual_seed(0)
    values = []
    for _ in range(40):
        x, y = torch.randn(2, 40, 4, generator=generator).double()
        values.append(kernel_distance(x, y, generator))
    assert 8 < sum(value < 0 for value in values) < 36
    assert abs(np.mean(values)) < 2.5 * np.std(values) / 40**0.5
