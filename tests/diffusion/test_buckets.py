"""Aspect buckets: which shapes there are, how photos are cut to them, and how they are drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from apdm_cli.diffusion.buckets import bucket_of, bucket_sizes, load_cuts
from apdm_cli.diffusion.latents import LatentDistribution
from apdm_cli.diffusion.photo_decoding import cut
from apdm_cli.personalization.dreambooth import DreamBoothLoss, PictureSource
from apdm_cli.randomness import Streams
from tests.protection import toys

# What kohya's `make_bucket_resolutions((512, 512), 256, 1024, 64)` returns.
OF_512 = [
    (256, 832), (256, 896), (256, 960), (256, 1024), (320, 704), (320, 768), (384, 640),
    (448, 576), (512, 512), (576, 448), (640, 384), (704, 320), (768, 320), (832, 256),
    (896, 256), (960, 256), (1024, 256),
]  # fmt: skip
# Photo → what kohya's `select_bucket` gives it, with that list.
CHOSEN = {
    (4000, 3000): (576, 448),
    (3000, 4000): (448, 576),
    (6000, 4000): (640, 384),
    (4000, 6000): (384, 640),
    (1920, 1080): (640, 384),
    (1080, 1920): (384, 640),
    (1170, 2532): (320, 704),
    (2350, 1000): (768, 320),
    (300, 300): (512, 512),
    (1000, 1160): (448, 576),
    (1160, 1000): (576, 448),
    (1000, 100): (1024, 256),
    (832, 256): (832, 256),
}
SHAPES = ((4, 4), (2, 8), (4, 4), (8, 2), (2, 8))


def test_the_shapes_are_those_of_kohyas_trainer() -> None:
    assert bucket_sizes(512, 64) == OF_512
    # In the proportions of 512 and 64 where the step is as large a part of the square.
    assert bucket_sizes(64, 8) == [(width // 8, height // 8) for width, height in OF_512]
    for width, height in bucket_sizes(1024, 64):
        assert width % 64 == height % 64 == 0 and width * height <= 1024**2
        assert min(width, height) >= 512 and max(width, height) <= 2048


@pytest.mark.parametrize(("size", "bucket"), CHOSEN.items(), ids=str)
def test_a_photo_gets_the_bucket_that_kohya_gives_it(
    size: tuple[int, int], bucket: tuple[int, int]
) -> None:
    assert bucket_of(size, OF_512) == bucket


def test_what_is_cut_off_lies_around_the_middle_of_the_square() -> None:
    """Every pixel says where it is: its red is its column, its green its row."""
    columns, rows = np.meshgrid(np.arange(180), np.arange(120))
    values = np.stack([columns, rows, 0 * rows], axis=-1).astype(np.uint8)
    photo = Image.fromarray(values)
    # (size, place of the square) → the corner in the photo, which is rescaled by 1.
    expected = {
        ((144, 120), 0.5): (18, 0),
        ((144, 120), 0.0): (0, 0),  # the square's middle is 60: as near as the edge allows
        ((144, 120), 0.75): (33, 0),  # 45 + 60 − 72
        ((144, 120), 1.0): (36, 0),
        ((180, 96), 0.9): (0, 12),  # the shorter side is cut in the middle, wherever the face is
    }
    for (size, at), corner in expected.items():
        shown, found = cut(photo, size, "face", at)
        assert shown.size == size and found == corner
        assert np.asarray(shown)[0, 0, :2].tolist() == list(corner)
    padded, corner = cut(photo, (144, 120), "none")
    assert corner == (0, 0) and np.asarray(padded)[1, 70].tolist() == [255, 255, 255]


def test_cuts_say_what_they_show_and_masks_are_cut_alike(tmp_path: Path) -> None:
    """The photos show their own masks."""
    for name, (width, height) in {"a": (180, 120), "b": (120, 200), "c": (64, 64)}.items():
        values = np.zeros((height, width), np.uint8)
        values[: height // 3, width // 2 :] = 255
        Image.fromarray(values).convert("RGB").save(tmp_path / f"{name}.png")
        if name != "c":
            Image.fromarray(values).save(tmp_path / f"{name}-masklabel.png")
    found = load_cuts([tmp_path], bucket_sizes(64, 16), masked=True)
    assert [tuple(one.pixels.shape[-2:]) for one in found] == [(48, 80), (80, 48), (64, 64)]
    # 180 by 120 becomes 80 by 53.3, of which 2 rows are cut off above; 120 by 200 becomes 48 by 80.
    assert [one.sizes for one in found] == [
        [120, 180, 2, 0, 48, 80],
        [200, 120, 0, 0, 80, 48],
        [64, 64, 0, 0, 64, 64],
    ]
    for one in found[:2]:
        assert one.mask is not None
        assert (one.pixels[:, :1] / 2 + 0.5 - one.mask).abs().max() < 0.01
        assert 0.1 < one.mask.mean() < 0.2
    assert found[2].mask is not None and found[2].mask.eq(1).all(), "it has no mask"


def mixed() -> LatentDistribution:
    parts = [
        LatentDistribution(
            toys.random(1, toys.CHANNELS, *shape, seed=10 + index),
            torch.full((1, toys.CHANNELS, *shape), 0.1),
            masks=torch.rand(1, 1, *shape, generator=Streams(index).generator("mask")),
        )
        for index, shape in enumerate(SHAPES)
    ]
    return LatentDistribution.of_shapes(parts, torch.arange(30).view(5, 6))


def test_a_batch_is_of_one_shape_and_every_photo_as_likely() -> None:
    latents, generator = mixed(), Streams(0).generator("choice")
    counts = torch.zeros(5)
    for _ in range(2000):
        chosen = latents.choose(3, generator).tolist()
        assert len({SHAPES[index] for index in chosen}) == 1
        counts += torch.bincount(torch.tensor(chosen), minlength=5)
    assert (counts / 6000 - 0.2).abs().max() < 0.03
    with pytest.raises(ValueError, match=r"of one shape, and these pictures have \[\(2, 8\)"):
        latents.sample(torch.tensor([1, 3]), generator)


def test_their_own_numbers_are_drawn_and_nothing_of_the_padding() -> None:
    latents = mixed()
    drawn = latents.sample(torch.tensor([4, 1]), Streams(0).generator("posterior"))
    alone = toys.random(1, toys.CHANNELS, 2, 8, seed=14)
    noise = torch.randn(2, toys.CHANNELS, 2, 8, generator=Streams(0).generator("posterior"))
    assert drawn.shape == noise.shape and torch.equal(drawn[:1], alone + 0.1 * noise[:1])
    rest = latents.select([1, 4]).clone()
    assert rest.shapes == ((2, 8), (2, 8)) and rest.sizes is not None and rest.masks is not None
    assert rest.sizes[1].tolist() == list(range(24, 30))
    again = rest.sample(torch.tensor([1, 0]), Streams(0).generator("posterior"))
    assert torch.equal(again, drawn)


def test_the_loss_is_that_of_one_shape_at_a_time_beside_square_class_pictures() -> None:
    latents, streams, denoiser = mixed(), Streams(3), toys.denoiser()
    told: list[list[int]] = []

    def tell(condition: object, indices: torch.Tensor) -> object:
        told.append(indices.tolist())
        return condition

    term = DreamBoothLoss(
        denoiser,
        PictureSource(latents, streams, "photos", toys.process()),
        PictureSource(toys.latents(4, 2), streams, "class", toys.process()),
        lambda: toys.condition(toys.PERSONAL),
        lambda: toys.condition(toys.CLASS),
        batch_size=2,
        prior_weight=0.3,
        masks=latents.masks,
        told=tell,  # type: ignore[arg-type]
    )
    assert term.class_pictures is not None and latents.masks is not None
    photos = toys.record(term.photos, "draw_indexed")
    generic = toys.record(term.class_pictures, "draw")
    values = [term() for _ in range(4)]
    assert {tuple(draw.latents.shape[-2:]) for _, draw in photos} > {(2, 8)}
    for value, (indices, draw), prior in zip(values, photos, generic, strict=True):
        masks = torch.cat([latents.of(latents.masks, torch.tensor([i])) for i in indices.tolist()])
        (personal,) = denoiser.squared_errors([draw], [toys.condition(toys.PERSONAL).expand(2)])
        (tether,) = denoiser.squared_errors([prior], [toys.condition(toys.CLASS).expand(2)])
        expected = (personal * masks).mean() + 0.3 * tether.mean()
        assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert told == [indices.tolist() for indices, _ in photos]
    values[0].backward()
    assert toys.gradients(denoiser.network).norm() > 0
