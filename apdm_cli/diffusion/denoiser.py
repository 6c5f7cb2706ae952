"""The denoiser and its training error, in ONE place for every family of models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from apdm_cli.diffusion.apart import apart
from apdm_cli.diffusion.condition import Condition
from apdm_cli.diffusion.process import NoiseProcess
from apdm_cli.diffusion.recording import Forward, Recorder


class NoisyDraw(NamedTuple):
    """Latents (B, C, H, W), noise of the same shape and timesteps (B,), ready for a denoiser."""

    latents: Tensor
    noise: Tensor
    timesteps: Tensor


@dataclass(frozen=True)
class Denoiser:
    """A network together with the noise process it was trained for.

    Attributes:
        network: what is trained.
        process: how latents are noised, and what the network should predict.
        forward: (network, noised latents, timesteps, condition) → prediction; its family's.
        dtype: compute dtype; anything but float32 runs under autocast.
    """

    network: nn.Module
    process: NoiseProcess
    forward: Forward
    dtype: torch.dtype = torch.float32

    def with_network(self, network: nn.Module) -> Denoiser:
        """The same process and dtype around other weights."""
        return replace(self, network=network)

    @property
    def launched(self) -> Denoiser:
        """The same without recordings, for derivatives that these do not give."""
        if isinstance(self.forward, Recorder):
            return replace(self, forward=self.forward.forward)
        return self

    def predict(self, noisy: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
        """The raw prediction, shape (B, C, H, W), in float32.

        Args:
            noisy: noised latents (B, C, H, W).
            timesteps: (B,).
            condition: of B rows.
        """
        mixed = self.dtype != torch.float32
        # Not cached: no weight is used twice, and the cache would hold all of them in half.
        kind = noisy.device.type
        with torch.autocast(kind, dtype=self.dtype, enabled=mixed, cache_enabled=False):
            prediction = self.forward(self.network, noisy, timesteps, condition)
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
                of one; otherwise, and where latents differ in shape, one after the other, backward
                passes too (see `apart`), in the memory of one.
        """
        noisy = [self.process.noised(*draw) for draw in draws]
        timesteps = [draw.timesteps for draw in draws]
        if not one_forward or len({each.shape[1:] for each in noisy}) > 1:
            return [
                apart(partial(self.predict, each, steps), condition)
                for each, steps, condition in zip(noisy, timesteps, conditions, strict=True)
            ]
        together = self.predict(torch.cat(noisy), torch.cat(timesteps), Condition.cat(conditions))
        return list(together.split([len(each) for each in noisy]))

    def target(self, draw: NoisyDraw) -> Tensor:
        """What the network should predict for a draw, (B, C, H, W), float32."""
        return self.process.target(*draw).float()

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
