"""The denoiser and its training error, in ONE place for every prediction type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from apdm_cli.diffusion.condition import Condition
from apdm_cli.errors import ApdmError

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


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
        v-prediction (docs/method.md, difference 5).

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
        f"The model's scheduler has prediction_type {prediction_type!r}, which is not supported",
        f"Supported are {', '.join(PREDICTION_TYPES)}.",
    )


class NoisyDraw(NamedTuple):
    """Latents (B, C, H, W), noise of the same shape and timesteps (B,), ready for a denoiser."""

    latents: Tensor
    noise: Tensor
    timesteps: Tensor


@dataclass(frozen=True)
class Denoiser:
    """A U-Net together with the noise schedule it was trained for.

    Attributes:
        unet: called as `unet(latents, timesteps, encoder_hidden_states=condition["text"]).sample`.
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

    def predict(self, noisy: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
        """The raw prediction, shape (B, C, H, W), in float32.

        Args:
            noisy: noised latents (B, C, H, W).
            timesteps: (B,).
            condition: of B rows.
        """
        mixed = self.dtype != torch.float32
        with torch.autocast(noisy.device.type, dtype=self.dtype, enabled=mixed):
            prediction = self.unet(noisy, timesteps, encoder_hidden_states=condition["text"]).sample
        return prediction.float()

    def predict_each(
        self,
        draws: Sequence[NoisyDraw],
        conditions: Sequence[Condition],
        *,
        one_forward: bool = True,
    ) -> list[Tensor]:
        """Raw predictions for several batches; each (B_i, C, H, W), float32.

        Args:
            draws, conditions: of equal length; the i-th condition has B_i rows.
            one_forward: run them as one batch, which small models and GPUs do in nearly the time
                of one; otherwise one after the other, in the memory of one.
        """
        noisy = [self.schedule.add_noise(*draw) for draw in draws]
        timesteps = [draw.timesteps for draw in draws]
        if not one_forward:
            return [self.predict(*each) for each in zip(noisy, timesteps, conditions, strict=True)]
        together = self.predict(torch.cat(noisy), torch.cat(timesteps), Condition.cat(conditions))
        return list(together.split([len(each) for each in noisy]))

    def target(self, draw: NoisyDraw) -> Tensor:
        """`training_target` of a draw, float32."""
        return training_target(self.schedule, *draw).float()

    def squared_errors(
        self,
        draws: Sequence[NoisyDraw],
        conditions: Sequence[Condition],
        *,
        one_forward: bool = True,
    ) -> list[Tensor]:
        """Unreduced squared errors of `predict_each`, each (B_i, C, H, W), float32, >= 0.

        This is the term inside every norm of the method: the caller decides the reduction.
        """
        predictions = self.predict_each(draws, conditions, one_forward=one_forward)
        pairs = zip(predictions, draws, strict=True)
        return [(prediction - self.target(draw)).square() for prediction, draw in pairs]

    def squared_error(
        self, latents: Tensor, noise: Tensor, timesteps: Tensor, condition: Condition
    ) -> Tensor:
        """`squared_errors` of one batch, shape (B, C, H, W)."""
        return self.squared_errors([NoisyDraw(latents, noise, timesteps)], [condition])[0]
