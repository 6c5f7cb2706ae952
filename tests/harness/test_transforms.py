"""What an attacker may do to photos."""

from __future__ import annotations

import pytest
import torch

from apdm_cli.errors import UsageError
from apdm_cli.harness.transforms import TRANSFORMS, apply_transforms
from apdm_cli.randomness import Streams
from apdm_cli.testing import synthetic_photos

PIXELS = synthetic_photos(32).pixels


@pytest.mark.parametrize("name", TRANSFORMS)
def test_shape_range_and_determinism(name: str) -> None:
    once = apply_transforms(PIXELS, [name], Streams(0))
    assert once.shape == PIXELS.shape
    assert once.abs().max() <= 1
    assert not torch.equal(once, PIXELS)
    assert torch.equal(once, apply_transforms(PIXELS, [name], Streams(0)))


@pytest.mark.parametrize("name", ["crop", "noise"])
def test_seeds_differ(name: str) -> None:
    one, other = (apply_transforms(PIXELS, [name], Streams(seed)) for seed in (0, 1))
    assert not torch.equal(one, other)


def test_flip_is_left_to_right() -> None:
    flipped = apply_transforms(PIXELS, ["flip"], Streams(0))
    assert torch.equal(flipped[..., 0], PIXELS[..., -1])
    assert torch.equal(apply_transforms(PIXELS, ["flip", "flip"], Streams(0)), PIXELS)


def test_blur_keeps_the_mean_and_takes_contrast() -> None:
    stripes = torch.ones(1, 3, 32, 32)
    stripes[..., ::2] = -1
    blurred = apply_transforms(stripes, ["blur"], Streams(0))
    assert blurred.mean().abs() < 0.05
    assert blurred.std() < 0.9 * stripes.std()


def test_no_transform_changes_nothing() -> None:
    assert apply_transforms(PIXELS, [], Streams(0)) is PIXELS


def test_an_unknown_one_is_named() -> None:
    with pytest.raises(UsageError, match="sepia"):
        apply_transforms(PIXELS, ["flip", "sepia"], Streams(0))
