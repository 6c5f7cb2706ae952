"""Stage: a plain AutoencoderKL, 64x64 pictures to 8x8 latents."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from pocket_training import loop
from pocket_training.parallel import Team, run_team
from pocket_training.pictures import SIZE, contact_sheet, held_out, table, to_tensor
from pocket_training.plan import Plan
from pocket_training.streams import initial_weights
from pocket_training.workshop import Workshop

STAGE = "autoencoder"
CHECKPOINT = "autoencoder.safetensors"
LEARNING_RATE = 2e-3
KL_WEIGHT = 1e-6
INITIAL_LOG_VARIANCE = -5.0
SQUARED, ABSOLUTE, EDGE, TINT = 2.0, 0.5, 0.5, 10.0  # weights of the errors
SPREAD_WEIGHT = 0.003


def build(plan: Plan) -> AutoencoderKL:
    """An untrained autoencoder of the plan's size, its weights drawn from the plan's seed."""
    channels = plan.autoencoder_channels
    with initial_weights(plan.seed, STAGE):
        model = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * len(channels),
            up_block_types=("UpDecoderBlock2D",) * len(channels),
            block_out_channels=channels,
            layers_per_block=1,
            latent_channels=plan.latent_channels,
            norm_num_groups=plan.autoencoder_groups,
            sample_size=SIZE,
        )
    # A posterior as wide as the prior would drown the pictures for the first thousand steps.
    assert model.quant_conv is not None and model.quant_conv.bias is not None
    with torch.no_grad():
        model.quant_conv.bias[plan.latent_channels :] = INITIAL_LOG_VARIANCE
    return model


def trained(shop: Workshop) -> AutoencoderKL:
    """The autoencoder with the EMA weights of the latest checkpoint, on the CPU, for inference."""
    model = build(shop.plan)
    loop.load_average(model, shop.path(CHECKPOINT))
    return model.eval().requires_grad_(False)


def reconstruction_loss(reconstruction: Tensor, pictures: Tensor) -> Tensor:
    """Squared and absolute error, error of the edges and of the tint; (n, 3, h, w) -> a scalar.

    Squared error alone leaves outlines soft; the edges term compares differences of neighbours.
    Most of the variance of colours is brightness: the tint term compares green with magenta and
    yellow with blue, averaged over 4x4 pixels, or green and purple hair end up grey.
    """
    error = reconstruction - pictures
    across = (error[..., :, 1:] - error[..., :, :-1]).abs().mean()
    down = (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    pixels = SQUARED * error.square().mean() + ABSOLUTE * error.abs().mean()
    red, green, blue = F.avg_pool2d(error, 4).unbind(1)
    tint = (green - (red + blue) / 2).square().mean() + (blue - (red + green) / 2).square().mean()
    return pixels + EDGE * (across + down) + TINT * tint


def spread_loss(means: Tensor) -> Tensor:
    """How far the channels of latents (n, c, h, w) are from uncorrelated with variance one.

    -log det C + tr C - c for their covariance C: twice the divergence of N(0, C) from N(0, I).
    Without it channels die early (three of eight did) and the colours that they would have
    carried never come back.
    """
    rows = means.permute(0, 2, 3, 1).flatten(0, 2)
    channels = rows.shape[1]
    rows = rows - rows.mean(0)
    covariance = rows.mT @ rows / (len(rows) - 1) + 1e-4 * torch.eye(channels, device=rows.device)
    return covariance.trace() - log_determinant(covariance) - channels


def log_determinant(matrix: Tensor) -> Tensor:
    """log det of a small positive definite matrix (n, n), by Gaussian elimination.

    In plain tensor operations: the libraries' factorizations wait for the device.
    """
    total = torch.zeros((), device=matrix.device)
    while len(matrix):
        pivot = matrix[0, 0]
        total = total + pivot.log()
        matrix = matrix[1:, 1:] - matrix[1:, :1] * matrix[:1, 1:] / pivot
    return total


def psnr(reconstruction: Tensor, pictures: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each picture, (n, 3, h, w) in [-1, 1] -> (n,)."""
    error = (reconstruction.clamp(-1, 1) - pictures).square().mean((1, 2, 3)) / 4
    return -10 * torch.log10(error)


def _draw(pictures: Tensor, plan: Plan, generator: torch.Generator) -> loop.Batch:
    batch, device = plan.autoencoder_batch, pictures.device
    rows = torch.randint(len(pictures), (batch,), generator=generator, device=device)
    shape = (batch, plan.latent_channels, 8, 8)
    return pictures[rows], torch.randn(shape, generator=generator, device=device)


def _loss(model: AutoencoderKL, pictures: Tensor, noise: Tensor) -> Tensor:
    wanted = to_tensor(pictures)
    posterior = model.encode(wanted.to(model.dtype)).latent_dist
    mean = posterior.mean.float()
    latents = mean + posterior.std.float() * noise
    decoded = model.decode(latents.to(model.dtype)).sample.float()
    regular = KL_WEIGHT * posterior.kl().float().mean() + SPREAD_WEIGHT * spread_loss(mean)
    return reconstruction_loss(decoded, wanted) + regular


def _work(team: Team, shop: Workshop, minutes: float | None) -> None:
    plan = shop.plan
    model = build(plan)
    shop.warm("vae", model)
    model = model.to(shop.device)
    recipe = loop.Recipe(
        STAGE, plan.seed, plan.autoencoder_steps, LEARNING_RATE, weight_decay=1e-3,
        checkpoint_every=plan.checkpoint_every, minutes=minutes,
    )  # fmt: skip
    lesson = loop.Lesson(partial(_draw, table(shop), plan), partial(_loss, model))
    loop.train(recipe, team, model, lesson, shop.path(CHECKPOINT), shop.log)


@torch.no_grad()
def reconstruct(model: AutoencoderKL, pictures: Tensor, batch: int = 50) -> Tensor:
    """Pictures through the autoencoder (the mean of the posterior), (n, 3, 64, 64) in [-1, 1]."""
    parts = [model.decode(model.encode(p).latent_dist.mean).sample for p in pictures.split(batch)]
    return torch.cat(parts).clamp(-1, 1)


def train(shop: Workshop, minutes: float | None = None) -> dict[str, Any]:
    """Trains the autoencoder; the result has the PSNR in dB on held-out identities."""
    size = loop.flat_size(build(shop.plan))
    run_team(_work, shop.workers, size, shop, minutes)
    model = trained(shop).to(shop.device)
    result: dict[str, Any] = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": loop.steps_done(shop.path(CHECKPOINT)),
    }
    sheet = []
    for noun in ("person", "dog", "cat"):
        pictures = to_tensor(held_out(noun, 50, 2)[:, 0]).to(shop.device)
        decoded = reconstruct(model, pictures)
        value = float(psnr(decoded, pictures).mean())
        result[f"psnr_{noun}"] = round(value, 2) if math.isfinite(value) else None
        sheet += [pictures[:12], decoded[:12]]
    contact_sheet(sheet, shop.path("autoencoder.png"))
    return result
