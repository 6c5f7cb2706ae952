"""How latents are noised, and what a denoiser is asked: all that diffusion and flows differ in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from apdm_cli.errors import ApdmError, UsageError

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
WHOLE_SCHEDULE = (0.0, 1.0)


class NoiseProcess(ABC):
    """The forward process that a denoiser was trained for.

    In every method latents and noise are (B, C, H, W), timesteps (B,) as `draw_timesteps` gives
    them: near 0 there is hardly any noise, near the end hardly anything else.
    """

    @abstractmethod
    def noised(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t, the noised latents (B, C, H, W)."""

    @abstractmethod
    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the denoiser should predict at x_t, (B, C, H, W)."""

    @abstractmethod
    def draw_timesteps(
        self, count: int, limits: tuple[float, float], generator: torch.Generator
    ) -> Tensor:
        """Timesteps (B,) as the training draws them, on the CPU.

        Args:
            limits: part of the schedule to draw from, (0, 1) for all of it.
        """

    def to(self, device: torch.device) -> NoiseProcess:
        """The same with its tensors, if it has any, on `device`."""
        return self

    def redrawn(self, distribution: str, shift: float) -> NoiseProcess:
        """The same process with timesteps drawn otherwise.

        Args:
            distribution: "model" (as it is), "uniform" or "logit-normal".
            shift: as `FlowMatching.shift`; 0 leaves it as it is.

        Raises:
            UsageError: the process does not know it.
        """
        if distribution == "logit-normal" or shift:
            raise UsageError(
                "timesteps=logit-normal and timestep_shift are not for this kind of model",
                "Leave them out: its timesteps are uniform.",
            )
        return self

    @abstractmethod
    def min_snr_weight(self, timesteps: Tensor, gamma: float) -> Tensor:
        """Min-SNR-γ weights (B,), arXiv 2303.09556, of a squared error in `target`.

        min(SNR, γ) weighs the error in the latents, whatever the denoiser predicts.
        """


@dataclass(frozen=True, eq=False)
class Diffusion(NoiseProcess):
    """x_t = √ᾱ_t x + √(1 − ᾱ_t) ε with discrete timesteps, arXiv 2006.11239, eq. 4.

    Attributes:
        alphas_cumprod: ᾱ of every training timestep, (T,).
        prediction_type: what the denoiser predicts: "epsilon", the noise; "v_prediction", the
            velocity √ᾱ ε − √(1 − ᾱ) x (arXiv 2202.00512, eq. 14); "sample", the latents.
        logit_normal: timesteps are T · sigmoid(N(0, 1)), as trainers have them from flow matching;
            otherwise they are uniform, as these models were trained.
    """

    alphas_cumprod: Tensor
    prediction_type: str = "epsilon"
    logit_normal: bool = False

    def __post_init__(self) -> None:
        if self.prediction_type not in PREDICTION_TYPES:
            raise ApdmError(
                f"the scheduler has prediction_type {self.prediction_type!r}, which is not "
                "supported",
                f"Supported are {', '.join(PREDICTION_TYPES)}.",
            )

    def noised(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """√ᾱ x + √(1 − ᾱ) ε."""
        signal, spread = self._scales(latents, timesteps)
        return signal * latents + spread * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """ε, v or x. The published APDM code mixes them up for v (docs/method.md, difference 5)."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return latents
        signal, spread = self._scales(latents, timesteps)
        return signal * noise - spread * latents

    def draw_timesteps(
        self, count: int, limits: tuple[float, float], generator: torch.Generator
    ) -> Tensor:
        """Integers from the part of the schedule."""
        steps = timestep_range(limits, len(self.alphas_cumprod))
        if not self.logit_normal:
            return torch.randint(steps.start, steps.stop, (count,), generator=generator)
        total = len(self.alphas_cumprod)
        share = _logit_normal(count, (steps.start / total, steps.stop / total), generator)
        return (share * total).long().clamp(steps.start, steps.stop - 1)

    def to(self, device: torch.device) -> Diffusion:
        """With ᾱ there, so that no step has to bring it."""
        return replace(self, alphas_cumprod=self.alphas_cumprod.to(device))

    def redrawn(self, distribution: str, shift: float) -> Diffusion:
        """Uniform or logit-normal; a shift is for flows."""
        if shift:
            raise UsageError(
                "timestep_shift is for models of flow matching",
                "Leave it out; timesteps=logit-normal and timestep_range are for all.",
            )
        drawn = self.logit_normal if distribution == "model" else distribution == "logit-normal"
        return self if drawn == self.logit_normal else replace(self, logit_normal=drawn)

    def min_snr_weight(self, timesteps: Tensor, gamma: float) -> Tensor:
        """min(SNR, γ), divided by the SNR for the noise and by SNR + 1 for the velocity."""
        alpha = self.alphas_cumprod.to(timesteps.device)[timesteps]
        snr = alpha / (1 - alpha)
        clipped = snr.clamp(max=gamma)
        if self.prediction_type == "sample":
            return clipped
        return clipped / (snr + 1 if self.prediction_type == "v_prediction" else snr)

    def _scales(self, latents: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """√ᾱ and √(1 − ᾱ), each (B, 1, 1, 1)."""
        alpha = self.alphas_cumprod.to(latents.device, latents.dtype)[timesteps]
        alpha = alpha.view(-1, 1, 1, 1)
        return alpha**0.5, (1 - alpha) ** 0.5


@dataclass(frozen=True)
class FlowMatching(NoiseProcess):
    """x_t = (1 − σ) x + σ ε on straight lines, whose velocity ε − x is predicted.

    arXiv 2210.02747 and 2209.03003, as arXiv 2403.03206 trains it: eq. 13 and 14 for the line and
    its velocity, section 3.1 for the distribution of σ, eq. 23 for the shift.

    Attributes:
        scale: timesteps are `scale` · σ, floating-point numbers; 1000 for Stable Diffusion 3 and
            FLUX.
        mean, std: of the normal distribution of log(σ / (1 − σ)). Mean 0 and std 1 are what
            trainers call "sigmoid", another std their "sigmoid scale".
        uniform: σ is uniform instead; `mean` and `std` then mean nothing.
        shift: s > 0 of σ ← s σ / (1 + (s − 1) σ), after σ is drawn: above 1 it moves σ towards
            noise, as larger pictures need it. 1 leaves σ as it is.
    """

    scale: float = 1000.0
    mean: float = 0.0
    std: float = 1.0
    uniform: bool = False
    shift: float = 1.0

    def noised(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """(1 − σ) x + σ ε."""
        sigma = (timesteps / self.scale).to(latents.dtype).view(-1, 1, 1, 1)
        return (1 - sigma) * latents + sigma * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """ε − x, at every timestep."""
        return noise - latents

    def draw_timesteps(
        self, count: int, limits: tuple[float, float], generator: torch.Generator
    ) -> Tensor:
        """Shifted σ between the limits, which are those of the shifted σ, times the scale."""
        # The shift in the other direction is the shift by 1 / s; rounding may leave [0, 1].
        unshifted = _shifted(torch.tensor(limits), 1 / self.shift).clamp(0, 1)
        low, high = self._quantile(unshifted)
        quantiles = low + (high - low) * torch.rand(count, generator=generator)
        # Neither end itself: its logit is infinite, and at σ = 1 nothing of the latents is left.
        return self.scale * _shifted(self._sigma(quantiles.clamp(1e-6, 1 - 1e-6)), self.shift)

    def min_snr_weight(self, timesteps: Tensor, gamma: float) -> Tensor:
        """min(SNR, γ) σ²: x = x_t − σ v, so that an error in v is one of σ times it in x."""
        sigma = timesteps / self.scale
        return ((1 - sigma) / sigma).square().clamp(max=gamma) * sigma.square()

    def redrawn(self, distribution: str, shift: float) -> FlowMatching:
        """Uniform or logit-normal with this mean and std, and shifted by another `shift`."""
        uniform = self.uniform if distribution == "model" else distribution == "uniform"
        return replace(self, uniform=uniform, shift=shift or self.shift)

    def _quantile(self, sigma: Tensor) -> Tensor:
        """Share of the unshifted σ that lie below."""
        return sigma if self.uniform else self._normal.cdf(torch.logit(sigma))

    def _sigma(self, quantile: Tensor) -> Tensor:
        """`_quantile` the other way round."""
        return quantile if self.uniform else torch.sigmoid(self._normal.icdf(quantile))

    @property
    def _normal(self) -> torch.distributions.Normal:
        return torch.distributions.Normal(self.mean, self.std)


def _logit_normal(count: int, limits: tuple[float, float], generator: torch.Generator) -> Tensor:
    """sigmoid(N(0, 1)) between the limits, (count,)."""
    normal = torch.distributions.Normal(0.0, 1.0)
    low, high = normal.cdf(torch.logit(torch.tensor(limits)))
    quantiles = low + (high - low) * torch.rand(count, generator=generator)
    return torch.sigmoid(normal.icdf(quantiles.clamp(1e-6, 1 - 1e-6)))


def _shifted(sigma: Tensor, shift: float) -> Tensor:
    """arXiv 2403.03206, eq. 23, with s = √(m / n)."""
    return sigma if shift == 1 else shift * sigma / (1 + (shift - 1) * sigma)


def timestep_range(limits: tuple[float, float], training_timesteps: int) -> range:
    """Fractions of the schedule, e.g. (0, .6), to the half-open range of timesteps they cover."""
    low, high = (round(limit * training_timesteps) for limit in limits)
    low = min(low, training_timesteps - 1)
    return range(low, max(high, low + 1))
