"""A loaded latent diffusion model behind the few operations that the method needs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from torch import Tensor, nn

from apdm_cli.diffusion.condition import Condition
from apdm_cli.diffusion.denoiser import Denoiser
from apdm_cli.diffusion.latents import LatentDistribution

ENCODING_BATCH = 16


@dataclass(frozen=True)
class ModelRef:
    """What was loaded.

    Attributes:
        source: the path, file or hub id as the user gave it; "pocket" for the embedded model.
        revision: hub revision, if one was asked for.
        digest: SHA-256 over the weights, 64 hexadecimal digits. It pins the model.
    """

    source: str
    revision: str | None
    digest: str


@dataclass(frozen=True)
class DiffusionModel:
    """A Stable Diffusion pipeline with its training schedule.

    Attributes:
        pipeline: diffusers' own object; its U-Net is held in float32 because it is trained,
            autoencoder and text encoder in `dtype`.
        schedule: the DDPM training schedule made from the pipeline's scheduler configuration.
        ref: where it came from.
        device, dtype: where and in which precision it computes.
    """

    pipeline: StableDiffusionPipeline
    schedule: DDPMScheduler
    ref: ModelRef
    device: torch.device
    dtype: torch.dtype

    @property
    def unet(self) -> nn.Module:
        return self.pipeline.unet

    @property
    def denoiser(self) -> Denoiser:
        return Denoiser(self.pipeline.unet, self.schedule, self.dtype)

    @property
    def resolution(self) -> int:
        """Side of the square pictures that the model was made for, in pixels."""
        return int(self.pipeline.unet.config.sample_size) * int(self.pipeline.vae_scale_factor)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one picture's latents."""
        side = int(self.pipeline.unet.config.sample_size)
        return int(self.pipeline.unet.config.in_channels), side, side

    def private_copy(self, *, text_encoder: bool = True) -> DiffusionModel:
        """A model whose U-Net (and text encoder) may be trained without touching this one.

        The autoencoder is shared: nothing here ever trains it.
        """
        parts = dict(self.pipeline.components)
        parts["unet"] = copy.deepcopy(self.pipeline.unet)
        if text_encoder:
            parts["text_encoder"] = copy.deepcopy(self.pipeline.text_encoder)
            parts["tokenizer"] = copy.deepcopy(self.pipeline.tokenizer)
        pipeline = StableDiffusionPipeline(**parts, requires_safety_checker=False)
        pipeline.set_progress_bar_config(disable=True)
        return replace(self, pipeline=pipeline)

    def embed(self, prompts: Sequence[str]) -> Condition:
        """What `prompts` become, one row each: float32, with gradients where they are on.

        Goes through the pipeline's own encoder so that textual-inversion tokens expand exactly as
        they do for a user of plain diffusers.
        """
        text, _ = self.pipeline.encode_prompt(
            list(prompts),
            device=self.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        return Condition({"text": text.float()})

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Condition:
        """`embed` without gradients."""
        return self.embed(prompts)

    @torch.no_grad()
    def encode_pixels(self, pixels: Tensor) -> LatentDistribution:
        """The autoencoder's posterior of `pixels` (N, 3, R, R) in [-1, 1], scaled, float32."""
        vae = self.pipeline.vae
        means, stds = [], []
        for part in pixels.split(ENCODING_BATCH):
            posterior = vae.encode(part.to(self.device, vae.dtype)).latent_dist
            means.append(posterior.mean.float())
            stds.append(posterior.std.float())
        scale = vae.config.scaling_factor
        return LatentDistribution(torch.cat(means) * scale, torch.cat(stds) * scale)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (N, 3, R, R) in [0, 1], float32, of scaled latents (N, C, H, W)."""
        vae = self.pipeline.vae
        pictures = [
            vae.decode(part.to(self.device, vae.dtype) / vae.config.scaling_factor).sample.float()
            for part in latents.split(ENCODING_BATCH)
        ]
        return (torch.cat(pictures) / 2 + 0.5).clamp(0, 1)
