"""DreamBooth's objective: subject photos under the identifier, class pictures as a tether.

Source: arXiv 2208.12242, eq. 2; L_per of arXiv 2511.01307 (docs/method.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from apdm_cli.devices import sent
from apdm_cli.diffusion.condition import Condition
from apdm_cli.diffusion.denoiser import Denoiser, NoisyDraw
from apdm_cli.diffusion.latents import LatentDistribution
from apdm_cli.diffusion.process import WHOLE_SCHEDULE, NoiseProcess
from apdm_cli.personalization.captions import PhotoCaptions
from apdm_cli.personalization.noise import WHITE, Noise
from apdm_cli.randomness import Streams


class PictureSource:
    """Endless random draws from a set of pictures, each from its own named streams.

    Args:
        pictures: latent distributions of N pictures.
        streams: of the run.
        name: prefix of the stream names ("attack/photos"), so that no draw shifts another.
        process: draws the timesteps.
        limits: part of the schedule that they come from.
        noise: its color.
    """

    def __init__(
        self,
        pictures: LatentDistribution,
        streams: Streams,
        name: str,
        process: NoiseProcess,
        limits: tuple[float, float] = WHOLE_SCHEDULE,
        noise: Noise = WHITE,
    ) -> None:
        self.pictures, self.process, self.limits = pictures, process, limits
        self._color = None if noise.white else (noise, streams.generator(f"{name}/color"))
        self._choice = streams.generator(f"{name}/choice")
        self._posterior = streams.generator(f"{name}/posterior")
        self._noise = streams.generator(f"{name}/noise")
        self._timesteps = streams.generator(f"{name}/timesteps")

    def draw(self, count: int) -> NoisyDraw:
        """`count` pictures with replacement, posterior samples, noise and timesteps.

        Of pictures of several shapes all are of one.
        """
        return self.draw_indexed(count)[1]

    def draw_indexed(self, count: int) -> tuple[Tensor, NoisyDraw]:
        """`draw`, and which pictures were drawn: indices (B,)."""
        indices = self.pictures.choose(count, self._choice)
        latents = self.pictures.sample(indices, self._posterior)
        noise = torch.randn(latents.shape, generator=self._noise)
        if self._color is not None:
            kind, generator = self._color
            noise = kind.color(noise, generator)
        noise = sent(noise, latents.device)
        timesteps = self.process.draw_timesteps(count, self.limits, self._timesteps)
        return indices, NoisyDraw(latents, noise, sent(timesteps, latents.device))


@dataclass
class DreamBoothLoss:
    """L_per = ‖ε_θ(x⁻_t, t, c_per) − ε‖² + λ ‖ε_θ(x^pr_t, t, c_pr) − ε‖², per element.

    Calling it draws a batch and returns the scalar.

    Attributes:
        denoiser: that is trained.
        photos, class_pictures: where the two terms draw from; without class pictures (or with
            weight 0) there is no second term.
        personal_condition, class_condition: return what c_per and c_pr become, a batch of one;
            called at every draw because some attacks train what is behind them.
        batch_size: photos a step; as many class pictures.
        prior_weight: λ.
        min_snr_gamma: γ of min-SNR weighting; 0 is off, as in DreamBooth.
        one_forward: run both terms as one batch; otherwise one after the other.
        huber: c of the pseudo-Huber loss 2c (√(e² + c²) − c) in the place of the squared error e²
            (arXiv 2403.16728, with one c for all timesteps); 0 is off.
        captions: what each photo is called, where they are called differently; then
            `personal_condition` is not asked.
        masks: weights (N, 1, H, W) of the first term's errors, one for every photo.
        told: what a condition (B rows) becomes for the photos (B,), where a model is told how
            each of them was cut.
    """

    denoiser: Denoiser
    photos: PictureSource
    class_pictures: PictureSource | None
    personal_condition: Callable[[], Condition]
    class_condition: Callable[[], Condition]
    batch_size: int = 1
    prior_weight: float = 1.0
    min_snr_gamma: float = 0.0
    one_forward: bool = True
    huber: float = 0.0
    captions: PhotoCaptions | None = None
    masks: Tensor | None = None
    told: Callable[[Condition, Tensor], Condition] | None = None

    def __call__(self) -> Tensor:
        photos, condition, mask = self._photos()
        draws, conditions = [photos], [condition]
        if self.class_pictures is not None and self.prior_weight > 0:
            draws.append(self.class_pictures.draw(self.batch_size))
            conditions.append(self.class_condition().expand(self.batch_size))
        errors = self.denoiser.squared_errors(draws, conditions, one_forward=self.one_forward)
        masks = [mask, None][: len(draws)]
        terms = [
            self._mean(error, draw.timesteps, mask)
            for error, draw, mask in zip(errors, draws, masks, strict=True)
        ]
        return terms[0] + self.prior_weight * terms[1] if len(terms) == 2 else terms[0]

    def _photos(self) -> tuple[NoisyDraw, Condition, Tensor | None]:
        if self.captions is None and self.masks is None and self.told is None:
            draw = self.photos.draw(self.batch_size)
            return draw, self.personal_condition().expand(self.batch_size), None
        indices, draw = self.photos.draw_indexed(self.batch_size)
        mask = None if self.masks is None else self.photos.pictures.of(self.masks, indices)
        if self.captions is None:
            condition = self.personal_condition().expand(self.batch_size)
        else:
            condition = self.captions(indices)
        return draw, condition if self.told is None else self.told(condition, indices), mask

    def _mean(self, error: Tensor, timesteps: Tensor, mask: Tensor | None) -> Tensor:
        if self.huber > 0:
            error = 2 * self.huber * ((error + self.huber**2).sqrt() - self.huber)
        if mask is not None:
            error = error * mask
        each = error.mean(dim=(1, 2, 3))
        if self.min_snr_gamma > 0:
            each = each * self.denoiser.process.min_snr_weight(timesteps, self.min_snr_gamma)
        return each.mean()
