"""DreamBooth's objective: subject photos under the identifier, class pictures as a tether.

Source: arXiv 2208.12242, eq. 2; L_per of METHOD.md (arXiv 2511.01307, eq. 3).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from apdm_cli.diffusion.denoiser import Denoiser
from apdm_cli.diffusion.latents import LatentDistribution
from apdm_cli.randomness import Streams


class NoisyDraw(NamedTuple):
    """Latents (B, C, H, W), noise of the same shape and timesteps (B,), ready for a denoiser."""

    latents: Tensor
    noise: Tensor
    timesteps: Tensor


class PictureSource:
    """Endless random draws from a set of pictures, each from its own named streams.

    Args:
        pictures: latent distributions of N pictures.
        streams: of the run.
        name: prefix of the stream names ("attack/photos"), so that no draw shifts another.
        timesteps: half-open range the timesteps are uniform over.
    """

    def __init__(
        self, pictures: LatentDistribution, streams: Streams, name: str, timesteps: range
    ) -> None:
        self.pictures = pictures
        self.timesteps = timesteps
        self._choice = streams.generator(f"{name}/choice")
        self._posterior = streams.generator(f"{name}/posterior")
        self._noise = streams.generator(f"{name}/noise")
        self._timesteps = streams.generator(f"{name}/timesteps")

    def draw(self, count: int) -> NoisyDraw:
        """`count` pictures with replacement, posterior samples, noise and timesteps."""
        return self.draw_indexed(count)[1]

    def draw_indexed(self, count: int) -> tuple[Tensor, NoisyDraw]:
        """`draw`, and which pictures were drawn: indices (B,)."""
        indices = torch.randint(len(self.pictures), (count,), generator=self._choice)
        latents = self.pictures.sample(indices, self._posterior)
        noise = torch.randn(latents.shape, generator=self._noise).to(latents.device)
        timesteps = torch.randint(
            self.timesteps.start, self.timesteps.stop, (count,), generator=self._timesteps
        )
        return indices, NoisyDraw(latents, noise, timesteps.to(latents.device))


def timestep_range(limits: tuple[float, float], training_timesteps: int) -> range:
    """Fractions of the schedule, e.g. (0, .6), to the half-open range of timesteps they cover."""
    low, high = (round(limit * training_timesteps) for limit in limits)
    return range(low, max(high, low + 1))


def min_snr_weight(alphas_cumprod: Tensor, timesteps: Tensor, gamma: float) -> Tensor:
    """min(SNR, γ) / SNR of shape (B,): arXiv 2303.09556 for noise prediction."""
    alpha = alphas_cumprod.to(timesteps.device)[timesteps]
    snr = alpha / (1 - alpha)
    return snr.clamp(max=gamma) / snr


@dataclass
class DreamBoothLoss:
    """L_per = ‖ε_θ(x⁻_t, t, c_per) − ε‖² + λ ‖ε_θ(x^pr_t, t, c_pr) − ε‖², per element.

    Calling it draws a batch and returns the scalar. Both terms share one forward pass.

    Attributes:
        denoiser: that is trained.
        photos, class_pictures: where the two terms draw from; without class pictures (or with
            weight 0) there is no second term.
        personal_text, class_text: return text embeddings (1, L, D); called at every draw because
            some attacks train what is behind them.
        batch_size: photos a step; as many class pictures.
        prior_weight: λ.
        min_snr_gamma: γ of min-SNR weighting; 0 is off, as in DreamBooth.
    """

    denoiser: Denoiser
    photos: PictureSource
    class_pictures: PictureSource | None
    personal_text: Callable[[], Tensor]
    class_text: Callable[[], Tensor]
    batch_size: int = 1
    prior_weight: float = 1.0
    min_snr_gamma: float = 0.0

    def __call__(self) -> Tensor:
        photos = self.photos.draw(self.batch_size)
        text = self.personal_text().expand(self.batch_size, -1, -1)
        if self.class_pictures is None or self.prior_weight == 0:
            return self._mean_error(photos, text).mean()
        prior = self.class_pictures.draw(self.batch_size)
        both = NoisyDraw(*(torch.cat(pair) for pair in zip(photos, prior, strict=True)))
        class_text = self.class_text().expand(self.batch_size, -1, -1)
        error = self._mean_error(both, torch.cat([text, class_text]))
        personal, preserved = error.split(self.batch_size)
        return personal.mean() + self.prior_weight * preserved.mean()

    def _mean_error(self, draw: NoisyDraw, text: Tensor) -> Tensor:
        error = self.denoiser.squared_error(*draw, text).mean(dim=(1, 2, 3))
        if self.min_snr_gamma > 0:
            alphas = self.denoiser.schedule.alphas_cumprod
            error = error * min_snr_weight(alphas, draw.timesteps, self.min_snr_gamma)
        return error
