"""Offset and multi-resolution noise, by their statistics."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from apdm_cli.personalization.noise import Noise
from apdm_cli.randomness import Streams


def colored(noise: Noise, count: int = 2000, side: int = 8) -> tuple[Tensor, Tensor]:
    streams = Streams(0)
    white = torch.randn(count, 4, side, side, generator=streams.generator("white"))
    return white, noise.color(white, streams.generator("color"))


@pytest.mark.parametrize("offset", [0.05, 0.5])
def test_offset_noise_moves_the_mean_of_every_channel(offset: float) -> None:
    white, noise = colored(Noise(offset=offset))
    added = (noise - white)[:, :, 0, 0] / offset
    assert torch.allclose(noise - white, (noise - white).mean(dim=(2, 3), keepdim=True), atol=1e-5)
    assert added.mean() == pytest.approx(0, abs=0.05) and added.std() == pytest.approx(1, abs=0.05)
    assert torch.corrcoef(added.T)[0, 1] == pytest.approx(0, abs=0.1), "each channel its own"


def test_multi_resolution_noise_is_coarser_and_no_larger() -> None:
    white, noise = colored(Noise(discount=0.5))
    assert noise.std(dim=(1, 2, 3)).sub(1).abs().max() < 1e-4
    coarse = [avg_pool2d(each, 4).std().item() for each in (white, noise)]
    assert coarse[0] == pytest.approx(0.25, abs=0.01) and coarse[1] > 1.3 * coarse[0]
    _, weaker = colored(Noise(discount=0.1))
    assert coarse[0] < avg_pool2d(weaker, 4).std() < coarse[1]


def test_it_stops_where_the_grid_is_a_single_number() -> None:
    """So that more iterations than the picture has scales add nothing."""
    assert torch.equal(colored(Noise(discount=0.5))[1], colored(Noise(0.0, 0.5, 16))[1])
    assert not torch.equal(colored(Noise(0.0, 0.5, 1))[1], colored(Noise(0.0, 0.5, 2))[1])


def test_nothing_is_nothing() -> None:
    white, noise = colored(Noise())
    assert noise is white and Noise().white
    assert not Noise(offset=0.1).white and not Noise(discount=0.1).white
