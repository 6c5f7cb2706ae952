"""What keeps the rest of the model in place while one subject is driven out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from apdm_cli.diffusion.condition import Condition
from apdm_cli.diffusion.denoiser import Denoiser, NoisyDraw
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
    """L_ppl of the paper: ‖ε_θ(x^pr_t, t, c_pr) − ε‖² on class pictures made by φ."""

    def __init__(self, source: PictureSource, class_condition: Condition, batch_size: int) -> None:
        self.source, self.batch_size = source, batch_size
        self.class_condition = class_condition

    def draw(self) -> PreservationDraw:
        """Draw a batch."""
        condition = self.class_condition.expand(self.batch_size)
        return PreservationDraw(self.source.draw(self.batch_size), condition, distill=False)


class Distillation:
    """|ε_θ − ε_φ|² on latents that φ generated, so that θ keeps saying what φ said.

    Not in the paper. A share of the samples carries the subject's caption (on other pictures), a
    share the empty caption that classifier-free guidance uses. φ answers anew at every draw:
    its prediction depends on the noise.

    Args:
        source: draws from the generated latents.
        captions: of every latent, a batch of N.
        personal, empty: the subject's caption and the empty one, batches of one.
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
        condition = (
            self.captions.index(indices)
            .where(lot < self.identifier_share, self.personal)
            .where(lot >= 1 - self.empty_share, self.empty)
        )
        return PreservationDraw(draw, condition, distill=True)


PreservationTerm = ClassPictures | Distillation


def preservation_error(
    denoiser: Denoiser, drawn: PreservationDraw, prediction: Tensor, reference: Tensor | None
) -> Tensor:
    """Unreduced (B, C, H, W) error of θ's `prediction` on a drawn batch.

    Args:
        reference: φ's prediction on the same batch; needed for distillation only.
    """
    target = denoiser.target(drawn.draw) if reference is None else reference
    return (prediction - target).square()
