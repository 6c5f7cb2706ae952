"""What keeps the rest of the model in place while one subject is driven out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from apdm_cli.diffusion.condition import Condition
from apdm_cli.diffusion.denoiser import Denoiser, NoisyDraw
from apdm_cli.diffusion.latents import LatentDistribution
from apdm_cli.personalization.dreambooth import PictureSource
from apdm_cli.randomness import Streams


@dataclass(frozen=True)
class PreservationDraw:
    """One batch of a preservation term.

    Attributes:
        draw: noised latents.
        condition: their captions, a batch of B.
        distill: whether φ's prediction is the target, instead of what the scheduler says.
    """

    draw: NoisyDraw
    condition: Condition
    distill: bool


class ClassPictures:
    """L_ppl of the paper: ‖ε_θ(x^pr_t, t, c_pr) − ε‖² on class pictures made by φ.

    Args:
        class_condition: c_pr, a batch of one; or of every picture its own, where subjects are of
            several classes.
    """

    def __init__(self, source: PictureSource, class_condition: Condition, batch_size: int) -> None:
        self.source, self.batch_size = source, batch_size
        self.class_condition = class_condition

    def draw(self) -> PreservationDraw:
        """Draw a batch."""
        indices, draw = self.source.draw_indexed(self.batch_size)
        condition = (
            self.class_condition.expand(self.batch_size)
            if len(self.class_condition) == 1
            else self.class_condition.index(indices)
        )
        return PreservationDraw(draw, condition, distill=False)


class Distillation:
    """|ε_θ − ε_φ|² on latents that φ generated, so that θ keeps saying what φ said.

    Not in the paper. A share of the samples carries the subject's caption (on other pictures), a
    share the empty caption that classifier-free guidance uses. φ answers anew at every draw:
    its prediction depends on the noise.

    Args:
        source: draws from the generated latents.
        captions: of every latent, a batch of N.
        personal: the subject's caption, a batch of one; of several subjects each one's.
        empty: the empty caption, a batch of one.
        identifier_share, empty_share: shares of samples that get another caption than their own;
            together at most 1.
    """

    def __init__(
        self,
        source: PictureSource,
        captions: Condition,
        personal: Condition,
        empty: Condition,
        *,
        identifier_share: float,
        empty_share: float,
        batch_size: int,
        streams: Streams,
    ) -> None:
        self.source, self.captions = source, captions
        self.personal, self.empty = personal, empty
        self.identifier_share, self.empty_share = identifier_share, empty_share
        self.batch_size = batch_size
        self._lots = streams.generator("protect/preservation/captions")

    def draw(self) -> PreservationDraw:
        """Draw a batch."""
        indices, draw = self.source.draw_indexed(self.batch_size)
        lot = torch.rand(self.batch_size, generator=self._lots)
        condition = self.captions.index(indices)
        subjects = self.personal.split(1)
        for number, personal in enumerate(subjects):  # equal parts of their share
            low, high = number / len(subjects), (number + 1) / len(subjects)
            mine = (lot >= low * self.identifier_share) & (lot < high * self.identifier_share)
            condition = condition.where(mine, personal)
        condition = condition.where(lot >= 1 - self.empty_share, self.empty)
        return PreservationDraw(draw, condition, distill=True)


PreservationTerm = ClassPictures | Distillation


class TypicalError:
    """ē(t): φ's own mean squared error at every timestep, per element.

    φ's error falls from about 1 where hardly any noise is to .004 at much noise, and so does what
    an unweighted distance between θ and φ sees.

    Args:
        timesteps: the (K,) increasing timesteps where it was measured.
        values: (K,), > 0. Between them the logarithm is interpolated linearly, and outside it is
            that of the nearest.
    """

    def __init__(self, timesteps: Tensor, values: Tensor) -> None:
        self.timesteps, self.logarithms = timesteps.float(), values.log()

    def at(self, timesteps: Tensor) -> Tensor:
        """ē at `timesteps` (B,); shape (B,)."""
        wanted = timesteps.float()
        right = torch.searchsorted(self.timesteps, wanted).clamp(1, len(self.timesteps) - 1)
        start, end = self.timesteps[right - 1], self.timesteps[right]
        share = ((wanted - start) / (end - start)).clamp(0, 1)
        return self.logarithms[right - 1].lerp(self.logarithms[right], share).exp()


BINS, SAMPLES = 25, 16  # parts of the schedule in which ē is measured, samples in each


@torch.no_grad()
def typical_error(
    reference: Denoiser, latents: LatentDistribution, captions: Condition, streams: Streams
) -> TypicalError:
    """Measure ē(t) of φ on up to 16 of the latents that it generated, under their captions.

    Args:
        captions: of the latents, a batch of N.
    """
    generator = streams.generator("protect/preservation/typical-error", common=True)
    chosen = torch.linspace(0, len(latents) - 1, min(SAMPLES, len(latents))).round().long()
    timesteps, values = [], []
    for part in range(BINS):
        clean = latents.sample(chosen, generator)
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        limits = part / BINS, (part + 1) / BINS
        drawn = reference.process.draw_timesteps(len(chosen), limits, generator).to(clean.device)
        draw = NoisyDraw(clean, noise, drawn)
        (error,) = reference.squared_errors([draw], [captions.index(chosen)])
        timesteps.append(drawn.float().mean())
        values.append(error.mean().clamp(min=1e-12))
    return TypicalError(torch.stack(timesteps), torch.stack(values))


def preservation_error(
    denoiser: Denoiser,
    drawn: PreservationDraw,
    prediction: Tensor,
    reference: Tensor | None,
    typical: TypicalError | None = None,
    means: float = 0.0,
) -> Tensor:
    """Unreduced (B, C, H, W) error of θ's `prediction` on a drawn batch.

    Args:
        reference: φ's prediction on the same batch; needed for distillation only.
        typical: ē(t) to divide by.
        means: weight w of the mean of a channel. To the error d² of a pixel comes w H W d̄², where
            d̄ is the mean of d over the H × W pixels: for an error that is white, d̄² is d² / H W.
    """
    target = denoiser.target(drawn.draw) if reference is None else reference
    difference = prediction - target
    error = difference.square()
    if means:
        pixels = difference.shape[-2] * difference.shape[-1]
        offset = difference.mean((-2, -1), keepdim=True)
        error = error + means * pixels * offset.square()
    if typical is None:
        return error
    return error / typical.at(drawn.draw.timesteps).view(-1, 1, 1, 1)
