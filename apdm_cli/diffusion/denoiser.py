"""The denoiser and its training error, in ONE place for every prediction type."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from apdm_cli.errors import ApdmError


def training_target(
    schedule: DDPMScheduler, latents: Tensor, noise: Tensor, timesteps: Tensor
) -> Tensor:
    """What the denoiser should predict for `latents` noised with `noise` at `timesteps`.

    Args:
        latents, noise: shape (B, C, H, W).
        timesteps: shape (B,), integers in [0, schedule.config.num_train_timesteps).

    Returns:
        (B, C, H, W): the noise, the velocity (arXiv 2202.00512, eq. 14) or the latents, as the
        scheduler's `prediction_type` says. The published APDM code mixes these up for
        v-prediction (METHOD.md, difference 5).

    Raises:
        ApdmError: for a prediction type that no Stable Diffusion checkpoint uses.
    """
    prediction_type = schedule.config.prediction_type
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "v_prediction":
        return schedule.get_velocity(latents, noise, timesteps)
    if prediction_type == "sample":
        return latents
    raise ApdmError(
        f"the model's scheduler has prediction_type {prediction_type!r}, which is not supported",
        "supported are epsilon, v_prediction and sample",
    )


@dataclass(frozen=True)
class Denoiser:
    """A U-Net together with the noise schedule it was trained for.

    Attributes:
        unet: called as `unet(latents, timesteps, encoder_hidden_states=text).sample`.
        schedule: the training schedule; its configuration carries the prediction type.
        dtype: compute dtype; anything but float32 runs under autocast.
    """

    unet: nn.Module
    schedule: DDPMScheduler
    dtype: torch.dtype = torch.float32

    def with_unet(self, unet: nn.Module) -> Denoiser:
        """The same schedule and dtype around other weights."""
        return replace(self, unet=unet)

    @property
    def training_timesteps(self) -> int:
        """Number of timesteps of the training schedule (1000 for Stable Diffusion)."""
        return int(self.schedule.config.num_train_timesteps)

    def predict(self, noisy: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        """The raw prediction, shape (B, C, H, W), in float32.

        Args:
            noisy: noised latents (B, C, H, W).
            timesteps: (B,).
            text: text embeddings (B, L, D).
        """
        mixed = self.dtype != torch.float32
        with torch.autocast(noisy.device.type, dtype=self.dtype, enabled=mixed):
            prediction = self.unet(noisy, timesteps, encoder_hidden_states=text).sample
        return prediction.float()

    def squared_error(
        self, latents: Tensor, noise: Tensor, timesteps: Tensor, text: Tensor
    ) -> Tensor:
        """Unreduced squared error of the prediction, shape (B, C, H, W), float32, >= 0.

        This is the term inside every norm of METHOD.md: the caller decides the reduction.
        """
        noisy = self.schedule.add_noise(latents, noise, timesteps)
        target = training_target(self.schedule, latents, noise, timesteps)
        return (self.predict(noisy, timesteps, text) - target.float()).square()
