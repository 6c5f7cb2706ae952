"""Anti-DreamBooth with a fixed surrogate (FSMG), held against a loop written from the paper."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from apdm_cli.config import resolve
from apdm_cli.diffusion.latents import LatentDistribution
from apdm_cli.diffusion.photos import load_photos
from apdm_cli.extension.family import load_model
from apdm_cli.personalization.dreambooth import PictureSource
from apdm_cli.randomness import Streams
from apdm_cli.testing import ImageProtectionContract
from apdm_protections.anti_dreambooth import AntiDreamBooth
from tests.protection import toys
from tests.protection.commands import forget_pipelines, pipeline
from tests.protection.test_contract import _OnTinyModel
from tests.protection.test_images import bench_of
from tests.tiny import make_photos

CPU = torch.device("cpu")
SETTINGS: dict[str, Any] = {
    **{"surrogate": "fixed", "steps": 2, "surrogate_steps": 2, "ascent_steps": 3, "eta": 0.02},
    **{"alpha": 0.01, "learning_rate": 1e-3, "batch_size": 2, "prior_weight": 0.5},
    "max_grad_norm": 0.1,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("fsmg")
    pipeline(folder / "model")
    make_photos(folder / "photos")
    yield folder
    forget_pipelines()


def test_it_is_fsmg(place: Path) -> None:
    """θ* = argmin_θ L_db(θ, x) in one training; then δ ← Π_η (δ + α sign ∇ L_cond(θ*, x + δ))."""
    model = load_model(str(place / "model"), CPU)
    photos = load_photos([place / "photos"], model.resolution)
    config = resolve(AntiDreamBooth.Config, SETTINGS)
    generator = torch.Generator().manual_seed(3)
    pictures = LatentDistribution.exact(torch.randn(2, *model.latent_shape, generator=generator))
    before, unet = copy.deepcopy(model.trained), copy.deepcopy(model.trained)
    bench = bench_of(model, photos, config, pictures, ("dog", "sks"))
    terms = [dict(found) for found in AntiDreamBooth().steps(bench, config)]
    assert bench.total == len(terms) == 4
    assert [math.isnan(found["ascent"]) for found in terms] == [True, True, False, False]
    assert [math.isnan(found["clean"]) for found in terms] == [False, False, True, True]

    streams, vae = Streams(0), model.components["vae"]
    c_per, c_pr = (model.encode_text([f"a photo of {word}"]) for word in ("sks dog", "dog"))
    kept = model.components["scheduler"].alphas_cumprod

    def error(latents: Tensor, noise: Tensor, times: Tensor, condition: Any) -> Tensor:
        share = kept[times].view(-1, 1, 1, 1)
        noisy = share.sqrt() * latents + (1 - share).sqrt() * noise
        text = condition["text"].expand(len(noisy), -1, -1)
        return nn.functional.mse_loss(unet(noisy, times, encoder_hidden_states=text).sample, noise)

    x = photos.pixels
    clean = PictureSource(model.encode_pixels(x), streams, "protect/clean", model.process)
    generic = PictureSource(pictures, streams, "protect/class", model.process)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-3, weight_decay=1e-2)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = error(*clean.draw(2), c_per) + 0.5 * error(*generic.draw(2), c_pr)
        loss.backward()
        nn.utils.clip_grad_norm_(unet.parameters(), 0.1)
        optimizer.step()
        losses.append(loss.item())
    for found, pair in zip(terms[:2], (losses[:2], losses[2:]), strict=True):
        assert found["clean"] == pytest.approx(sum(pair) / 2, rel=1e-3)

    x_adv, climbed = x.clone(), []
    names = [f"protect/perturbation/{name}" for name in ("posterior", "noise", "timesteps")]
    posteriors, noises, times = (streams.generator(name) for name in names)
    for _ in range(6):
        x_adv = x_adv.detach().requires_grad_()
        found_there = vae.encode(x_adv).latent_dist
        shape = found_there.mean.shape
        noise = torch.randn(shape, generator=posteriors)
        latents = (found_there.mean + found_there.std * noise) * vae.config.scaling_factor
        drawn = torch.randn(shape, generator=noises), torch.randint(1000, (3,), generator=times)
        value = error(latents, *drawn, c_per)
        value.backward()
        climbed.append(value.item())
        assert x_adv.grad is not None
        stepped = x_adv.detach() + 0.01 * x_adv.grad.sign()
        x_adv = (x + (stepped - x).clamp(-0.02, 0.02)).clamp(-1, 1)
    for found, three in zip(terms[2:], (climbed[:3], climbed[3:]), strict=True):
        assert found["ascent"] == pytest.approx(sum(three) / 3, rel=1e-3)

    same = (bench.perturbation.pixels - x_adv).abs() < 1e-6
    assert same.float().mean() > 0.99  # rounding decides the sign of what is next to nothing
    assert (bench.perturbation.pixels - x).abs().max() > 0.015
    moved = (toys.weights(unet) - toys.weights(before)).norm()
    assert (toys.weights(model.trained) - toys.weights(unet)).norm() < 1e-2 * moved


class TestFixedSurrogate(_OnTinyModel, ImageProtectionContract):
    protection = AntiDreamBooth()
    settings: ClassVar = {
        **{"surrogate": "fixed", "steps": 2, "surrogate_steps": 1, "ascent_steps": 1},
        **{"batch_size": 1, "learning_rate": 1e-3},
    }


def test_the_surrogate_is_named_only_where_it_is_not_the_usual_one() -> None:
    """So that a run from before there was a choice is gone on with."""
    usual = AntiDreamBooth.Config().description()
    assert "surrogate" not in usual and usual["surrogate_steps"] == 3
    published = resolve(AntiDreamBooth.Config, AntiDreamBooth().preset("fsmg"))
    assert published.description()["surrogate"] == "fixed"
    # 1000 steps of DreamBooth and 100 of the perturbation, as the published script has them.
    assert published.steps * published.surrogate_steps == 1000
    assert published.steps * published.ascent_steps == 100
    # A dry run measures steps of 6 passes; they have 5.5 on the average, 10 or 1.
    short, parts = AntiDreamBooth().shortened(published)
    assert short.surrogate_steps * parts == pytest.approx(5.5)
