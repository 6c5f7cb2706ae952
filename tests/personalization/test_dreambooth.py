"""DreamBooth's loss, and where its batches come from."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from apdm_cli.diffusion.condition import Condition
from apdm_cli.personalization.captions import PhotoCaptions
from apdm_cli.personalization.dreambooth import DreamBoothLoss, PictureSource
from apdm_cli.personalization.noise import Noise
from apdm_cli.randomness import Streams
from tests.protection import toys


def loss(denoiser: Any, seed: int = 0, **changes: Any) -> DreamBoothLoss:
    streams = Streams(seed)
    return DreamBoothLoss(
        denoiser,
        PictureSource(toys.latents(3, 1), streams, "photos", toys.process()),
        PictureSource(toys.latents(4, 2), streams, "class", toys.process()),
        lambda: toys.condition(toys.PERSONAL),
        lambda: toys.condition(toys.CLASS),
        **changes,
    )


def test_loss_is_the_two_terms() -> None:
    denoiser = toys.denoiser()
    term = loss(denoiser, batch_size=2, prior_weight=0.3)
    assert term.class_pictures is not None
    photos, generic = toys.record(term.photos, "draw"), toys.record(term.class_pictures, "draw")
    value = term()
    conditions = [toys.condition(which).expand(2) for which in (toys.PERSONAL, toys.CLASS)]
    personal, prior = denoiser.squared_errors([photos[0], generic[0]], conditions)
    assert value.item() == pytest.approx((personal.mean() + 0.3 * prior.mean()).item(), rel=1e-5)


def test_without_a_prior_no_class_picture_is_drawn() -> None:
    term = loss(toys.denoiser(), prior_weight=0.0)
    assert term.class_pictures is not None
    generic = toys.record(term.class_pictures, "draw")
    term()
    assert generic == []
    alone = loss(toys.denoiser())
    alone.class_pictures = None
    assert alone().item() == pytest.approx(loss(toys.denoiser(), prior_weight=0.0)().item())


def test_batched_and_single_forwards_give_one_gradient() -> None:
    found = []
    for together in (True, False):
        denoiser = toys.denoiser()
        loss(denoiser, batch_size=2, one_forward=together)().backward()
        found.append(toys.gradients(denoiser.network))
    assert (found[0] - found[1]).norm() < 1e-5 * found[1].norm()


def test_draws_depend_on_seed_and_name_only() -> None:
    def draws(seed: int, name: str) -> torch.Tensor:
        source = PictureSource(toys.latents(3, 1), Streams(seed), name, toys.process())
        return source.draw(5).latents

    assert torch.equal(draws(0, "a"), draws(0, "a"))
    assert not torch.equal(draws(0, "a"), draws(1, "a"))
    assert not torch.equal(draws(0, "a"), draws(0, "b"))


def test_latents_are_sampled_anew_at_every_use() -> None:
    one_picture = toys.latents(1, 1)
    source = PictureSource(one_picture, Streams(0), "a", toys.process())
    first, second = source.draw(1).latents, source.draw(1).latents
    assert not torch.equal(first, second)
    assert (first - one_picture.mean).abs().max() < 1  # standard deviation 0.1


def test_timesteps_are_uniform_over_their_range() -> None:
    source = PictureSource(toys.latents(1, 1), Streams(0), "a", toys.process(), (0.2, 0.6))
    steps = source.draw(4000).timesteps
    assert steps.min() >= 200 and steps.max() < 600
    assert torch.histc(steps.float(), 4, 200, 600).sub(1000).abs().max() < 150


def test_huber_is_the_squared_error_for_small_errors_and_linear_for_large_ones() -> None:
    """2c (√(e² + c²) − c): e² for e ≪ c, 2c |e| for e ≫ c; arXiv 2403.16728, eq. 5, times 2c."""
    squared = loss(toys.denoiser(), batch_size=2)()
    assert loss(toys.denoiser(), batch_size=2, huber=300.0)().item() == pytest.approx(
        squared.item(), rel=1e-2
    )
    denoiser, c = toys.denoiser(), 1e-4
    term = loss(denoiser, batch_size=2, prior_weight=0.0, huber=c)
    photos = toys.record(term.photos, "draw")
    value = term()
    (errors,) = denoiser.squared_errors(photos, [toys.condition(toys.PERSONAL).expand(2)])
    assert value.item() == pytest.approx(2 * c * (errors.sqrt().mean().item() - c), rel=1e-2)


def test_colored_noise_changes_nothing_but_the_noise() -> None:
    def drawn(*noise: Noise) -> Any:
        source = PictureSource(
            toys.latents(3, 1), Streams(0), "a", toys.process(), (0.0, 1.0), *noise
        )
        return [source.draw(4) for _ in range(3)][-1]

    plain, white, colored = drawn(), drawn(Noise()), drawn(Noise(offset=0.1))
    assert all(torch.equal(one, other) for one, other in zip(plain, white, strict=True))
    assert torch.equal(plain.latents, colored.latents)
    assert torch.equal(plain.timesteps, colored.timesteps)
    added = colored.noise - plain.noise
    assert added.abs().min() > 0 and torch.allclose(added, added[:, :, :1, :1], atol=1e-6)


def test_captions_are_those_of_the_photos_that_were_drawn() -> None:
    embedded = {f"photo {i}": toys.condition(10 + i) for i in range(3)}
    captions = PhotoCaptions(embedded.__getitem__, list(embedded), 0.0, Streams(0).generator("c"))
    denoiser = toys.denoiser()
    term = loss(denoiser, batch_size=4, prior_weight=0.0, captions=captions)
    draws = toys.record(term.photos, "draw_indexed")
    value = term()
    ((indices, draw),) = draws
    rows = Condition.cat([embedded[f"photo {i}"] for i in indices.tolist()])
    (errors,) = denoiser.squared_errors([draw], [rows])
    assert value.item() == pytest.approx(errors.mean().item(), rel=1e-6)


def test_min_snr_lowers_the_loss_of_easy_steps() -> None:
    assert (
        loss(toys.denoiser(), batch_size=8, min_snr_gamma=1.0)()
        < loss(toys.denoiser(), batch_size=8)()
    )


def test_a_mask_weighs_the_photos_errors_and_no_class_picture() -> None:
    denoiser = toys.denoiser()
    masks = torch.rand(3, 1, *toys.latents(3, 1).mean.shape[-2:])
    term = loss(denoiser, batch_size=4, prior_weight=0.3, masks=masks, huber=0.1)
    assert term.class_pictures is not None
    photos = toys.record(term.photos, "draw_indexed")
    generic = toys.record(term.class_pictures, "draw")
    value = term()
    ((indices, draw),) = photos
    conditions = [toys.condition(which).expand(4) for which in (toys.PERSONAL, toys.CLASS)]
    squared = denoiser.squared_errors([draw, generic[0]], conditions)
    personal, prior = (0.2 * ((one + 0.01).sqrt() - 0.1) for one in squared)
    expected = (personal * masks[indices]).mean() + 0.3 * prior.mean()
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)


def test_masks_draw_the_photos_that_are_drawn_without() -> None:
    masks = torch.ones(3, 1, *toys.latents(3, 1).mean.shape[-2:])
    plain, masked = loss(toys.denoiser(), batch_size=4), loss(toys.denoiser(), batch_size=4)
    masked.masks = masks
    assert plain().item() == masked().item()
