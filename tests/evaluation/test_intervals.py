"""The bootstrap intervals hold what they promise."""

from __future__ import annotations

import pytest
import torch

from apdm_cli.evaluation.distances import frechet_distance
from apdm_cli.evaluation.intervals import (
    distance_interval,
    mean_interval,
    off_diagonal_interval,
    pairs_interval,
)


def test_mean_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    hits = 0
    for _ in range(200):
        low, high = mean_interval(torch.randn(30, generator=generator), replicates=400)
        assert low is not None and high is not None
        hits += low <= 0 <= high
    assert 178 <= hits <= 200


def test_pairs_interval_holds_the_luck_of_the_photos_too() -> None:
    """With pictures alone resampled it would be far too narrow where photos differ."""
    generator = torch.Generator().manual_seed(0)
    hits, narrow = 0, 0
    for _ in range(150):
        photos = torch.randn(8, 1, generator=generator)
        images = 0.3 * torch.randn(1, 30, generator=generator)
        matrix = photos + images
        low, high = pairs_interval(matrix, replicates=400)
        alone = mean_interval(matrix.mean(0), replicates=400)
        assert low is not None and high is not None and alone[0] is not None
        hits += low <= 0 <= high
        narrow += alone[0] <= 0 <= (alone[1] or 0)
    assert hits >= 0.85 * 150  # eight photos: a little under 95 %
    assert narrow < 0.6 * 150


@pytest.mark.parametrize("seed", [0, 1])
def test_order_does_not_reach_the_random_draws(seed: int) -> None:
    matrix = torch.randn(4, 9, generator=torch.Generator().manual_seed(seed))
    turned = matrix[torch.randperm(4)][:, torch.randperm(9)]
    assert pairs_interval(turned) == pytest.approx(pairs_interval(matrix))
    assert mean_interval(matrix[0].flip(0)) == pytest.approx(mean_interval(matrix[0]))


def test_too_few_values_have_no_interval() -> None:
    assert mean_interval(torch.ones(1)) == (None, None)
    assert pairs_interval(torch.ones(4, 1)) == (None, None)
    assert off_diagonal_interval(torch.ones(2, 2)) == (None, None)


def test_off_diagonal_interval_ignores_pairs_of_a_picture_with_its_own_copy() -> None:
    """A constant off the diagonal has no uncertainty, whatever the resampling repeats."""
    matrix = torch.full((6, 6), 0.4).fill_diagonal_(1.0)
    assert off_diagonal_interval(matrix) == pytest.approx((0.4, 0.4))


def test_distance_interval_is_around_the_value_and_shrinks_with_more_pictures() -> None:
    generator = torch.Generator().manual_seed(0)
    widths = []
    for count in (20, 200):
        x, y = torch.randn(2, count, 4, generator=generator).double()
        value = frechet_distance(x, y)
        low, high = distance_interval(value, frechet_distance, x, y)
        assert low is not None and high is not None and low < value < high
        assert (low, high) == distance_interval(value, frechet_distance, x, y)
        widths.append(high - low)
    assert widths[1] < 0.6 * widths[0]
