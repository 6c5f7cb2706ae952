"""Stage: U-Net and text encoder together, on the latents of the finished autoencoder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from pocket_training import autoencoder, captions, extractor, latents, loop, text
from pocket_training.parallel import Team, run_team
from pocket_training.pictures import contact_sheet, groups, photo_array, to_tensor
from pocket_training.plan import Plan
from pocket_training.streams import initial_weights, stream
from pocket_training.workshop import Workshop

STAGE = "denoiser"
CHECKPOINT = "denoiser.safetensors"
LEARNING_RATE = 1e-3
MIN_SNR = 5.0  # Hang et al. 2023
NAMES_TESTED = 50

SCHEDULER: dict[str, Any] = {  # Stable Diffusion's
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


class Denoiser(nn.Module):
    """What this stage trains: the U-Net and the encoder of its captions."""

    def __init__(self, unet: UNet2DConditionModel, encoder: nn.Module) -> None:
        super().__init__()
        self.unet = unet
        self.encoder = encoder

    def forward(self, noisy: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        """Noise prediction, (n, channels, 8, 8), (n,), (n, length) -> (n, channels, 8, 8)."""
        words = self.encoder(input_ids=tokens).last_hidden_state
        return self.unet(noisy, timesteps, words.to(noisy.dtype)).sample


def build(plan: Plan, encoder: nn.Module | None = None) -> Denoiser:
    """An untrained U-Net, and `encoder` or an untrained one."""
    levels = len(plan.denoiser_channels)
    with initial_weights(plan.seed, STAGE):
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=plan.latent_channels,
            out_channels=plan.latent_channels,
            down_block_types=("CrossAttnDownBlock2D",) * levels,
            up_block_types=("CrossAttnUpBlock2D",) * levels,
            block_out_channels=plan.denoiser_channels,
            layers_per_block=1,
            cross_attention_dim=plan.text_width,
            attention_head_dim=4,  # the number of heads, by its old name
            norm_num_groups=plan.denoiser_groups,
        )
    return Denoiser(unet, text.build(plan).encoder if encoder is None else encoder)


def trained(shop: Workshop) -> Denoiser:
    """The denoiser with the EMA weights of the latest checkpoint, on the CPU, for inference."""
    model = build(shop.plan)
    loop.load_average(model, shop.path(CHECKPOINT))
    return model.eval().requires_grad_(False)


def snr_weights(alphas: Tensor) -> Tensor:
    """min(SNR, 5) / SNR, the weight of the noise error for cumulative alphas in (0, 1)."""
    snr = alphas / (1 - alphas)
    return snr.clamp(max=MIN_SNR) / snr


def _draw(
    spoken: Callable[[torch.Generator], tuple[Tensor, Tensor]], moments: Tensor, scaling: float,
    timesteps: int, generator: torch.Generator,
) -> loop.Batch:  # fmt: skip
    rows, tokens = spoken(generator)
    device, batch = tokens.device, len(tokens)
    shape = (batch, *moments.shape[2:])
    spread = torch.randn(shape, generator=generator, device=device)
    clean = latents.sample(moments, rows, spread, scaling)
    noise = torch.randn(shape, generator=generator, device=device)
    drawn = torch.randint(timesteps, (batch,), generator=generator, device=device)
    return tokens, clean, noise, drawn


def noise_loss(
    model: Denoiser, alphas: Tensor, tokens: Tensor, clean: Tensor, noise: Tensor,
    timesteps: Tensor,
) -> Tensor:  # fmt: skip
    """Noise error of one batch, weighted by `snr_weights`; `alphas` are the cumulative ones.

    `tokens` (n, length), `clean` and `noise` (n, channels, 8, 8), `timesteps` (n,) -> a scalar.
    """
    alpha = alphas[timesteps]
    share = alpha.view(-1, 1, 1, 1)
    noisy = share.sqrt() * clean + (1 - share).sqrt() * noise
    predicted = model(noisy.to(model.unet.dtype), timesteps, tokens)
    error = (predicted.float() - noise).square().mean((1, 2, 3))
    return (error * snr_weights(alpha)).mean()


def lesson(shop: Workshop, stage: str, model: Denoiser) -> loop.Lesson:
    """What the stages `denoiser` and `identifiers` learn from in this work folder."""
    noted = shop.result("latents")
    assert noted is not None
    alphas = DDIMScheduler(**SCHEDULER).alphas_cumprod.to(shop.device)
    spoken = captions.source(shop, captions.mixtures(shop.plan)[stage], shop.plan.denoiser_batch)
    moments = latents.table(shop, latents.LATENTS)
    return loop.Lesson(
        partial(_draw, spoken, moments, noted["scaling_factor"], len(alphas)),
        partial(noise_loss, model, alphas),
    )


def _work(team: Team, shop: Workshop, minutes: float | None) -> None:
    plan = shop.plan
    model = build(plan, text.trained(shop).encoder)
    shop.warm("unet", model.unet)
    shop.warm("text_encoder", model.encoder)
    model = model.to(shop.device)
    recipe = loop.Recipe(
        STAGE, plan.seed, plan.denoiser_steps, LEARNING_RATE, warm_up=200,
        checkpoint_every=plan.checkpoint_every, minutes=minutes,
    )  # fmt: skip
    learned = lesson(shop, STAGE, model)
    loop.train(recipe, team, model, learned, shop.path(CHECKPOINT), shop.log)


@torch.no_grad()
def draw(
    model: Denoiser, decoder: AutoencoderKL, scaling: float, spoken: list[str],
    names: tuple[str, ...], generator: torch.Generator, steps: int = 20, guidance: float = 3.0,
) -> Tensor:  # fmt: skip
    """Pictures (n, 3, 64, 64) in [-1, 1] of `n` captions; DDIM, classifier-free guidance.

    Drawn where the networks are, from noise of `generator` (on the CPU), and brought to the CPU.
    """
    device = model.unet.device
    scheduler = DDIMScheduler(**SCHEDULER)
    scheduler.set_timesteps(steps)
    tokens = captions.tokens_of([captions.Example(0, line) for line in spoken], names)
    empty = captions.tokens_of([captions.Example(0, "")] * len(spoken), names)
    channels = model.unet.config["in_channels"]
    state = torch.randn((len(spoken), channels, 8, 8), generator=generator).to(device)
    both = torch.cat([empty, tokens]).to(device)
    for timestep in scheduler.timesteps:
        time = timestep.to(device).expand(2 * len(spoken))
        without, within = model(state.repeat(2, 1, 1, 1), time, both).chunk(2)
        predicted = without + guidance * (within - without)
        state = scheduler.step(predicted, int(timestep), state).prev_sample
    return decoder.decode(state / scaling).sample.clamp(-1, 1).cpu()


def examine(model: Denoiser, shop: Workshop, sheet: str = "denoiser.png") -> dict[str, Any]:
    """Draws names and classes with `model`; how well names are recalled.

    `name_recall`: mean cosine of one picture per name to that person's photos, `name_floor` to
    the photos of the next name.
    """
    decoder = autoencoder.trained(shop).to(shop.device)
    model = model.to(shop.device)
    noted = shop.result("latents")
    assert noted is not None
    block = groups(shop.plan)["named"]
    names = tuple(block.names)
    generator = stream(shop.plan.seed, "denoiser/examine")
    paint = partial(draw, model, decoder, noted["scaling_factor"])
    tested = names[:NAMES_TESTED]
    named = paint([f"a photo of {name} person" for name in tested], names, generator)
    photos = np.stack([photo_array("person", block.first_seed + i, 0) for i in range(len(tested))])
    rows = [to_tensor(photos)[:12], named[:12]]
    lines = ["a photo of person", "a photo of person with red hair and round glasses",
             "a photo of person with beard", "a photo of sks person", "a photo of dog",
             "a photo of cat"]  # fmt: skip
    rows += [paint([line] * len(rows[0]), names, generator) for line in lines]
    contact_sheet(rows, shop.path(sheet))
    vit = extractor.trained(shop)
    with torch.no_grad():
        drawn = extractor.features(vit, named)
    found = torch.from_numpy(np.load(shop.path(latents.FEATURES))[block.rows].astype(np.float32))
    found = found.unflatten(0, (block.identities, block.photos))[: len(tested)]
    cosine = torch.einsum("nd,mpd->nm", drawn, found) / block.photos
    return {
        "name_recall": round(float(cosine.diagonal().mean()), 4),
        "name_floor": round(float(cosine.roll(1, 1).diagonal().mean()), 4),
    }


def train(shop: Workshop, minutes: float | None = None) -> dict[str, Any]:
    """Trains the stage; the result has the name recall of `examine`."""
    model = build(shop.plan)
    run_team(_work, shop.workers, loop.flat_size(model), shop, minutes)
    return {
        "parameters": sum(p.numel() for p in model.unet.parameters()),
        "steps": loop.steps_done(shop.path(CHECKPOINT)),
        **examine(trained(shop), shop),
    }
