"""What keeps the rest of the model in place while one subject is driven out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from apdm_cli.diffusion.denoiser import Denoiser
from apdm_cli.personalization.dreambooth import NoisyDraw, PictureSource
from apdm_cli.randomness import Streams


@dataclass(frozen=True)
class PreservationDraw:
    """One batch of a preservation term: noised latents, captions (B, L, D), target or None.

    `reference` is φ's prediction (B, C, H, W) for distillation; without one the term is the
    denoising loss itself.
    """

    draw: NoisyDraw
    text: Tensor
    reference: Tensor | None


class ClassPictures:
    """L_ppl of the paper: ‖ε_θ(x^pr_t, t, c_pr) − ε‖² on class pictures made by φ."""

    def __init__(self, source: PictureSource, class_text: Tensor, batch_size: int) -> None:
        self.source, self.class_text, self.batch_size = source, class_text, batch_size

    def draw(self) -> PreservationDraw:
        """Draw a batch."""
        text = self.class_text.expand(self.batch_size, -1, -1)
        return PreservationDraw(self.source.draw(self.batch_size), text, None)


class Distillation:
    """|ε_θ − ε_φ|² on latents that φ generated, so that θ keeps saying what φ said.

    Not in the paper. A share of the samples carries the subject's caption (on other pictures), a
    share the empty caption that classifier-free guidance uses.

    Args:
        source: draws from the generated latents.
        texts: caption of every latent, (N, L, D).
        personal_text, empty_text: (1, L, D).
        identifier_share, empty_share: shares of samples that get another caption than their own.
        reference: φ.
    """

    def __init__(
        self,
        source: PictureSource,
        texts: Tensor,
        personal_text: Tensor,
        empty_text: Tensor,
        *,
        identifier_share: float,
        empty_share: float,
        reference: Denoiser,
        batch_size: int,
        streams: Streams,
    ) -> None:
        self.source, self.texts = source, texts
        self.personal_text, self.empty_text = personal_text, empty_text
        self.identifier_share, self.empty_share = identifier_share, empty_share
        self.reference, self.batch_size = reference, batch_size
        self._captions = streams.generator("protect/preservation/captions")

    @torch.no_grad()
    def draw(self) -> PreservationDraw:
        """Draw a batch and ask φ for its prediction (it depends on the noise: no caching)."""
        indices, draw = self.source.draw_indexed(self.batch_size)
        text = self.texts[indices].clone()
        lot = torch.rand(self.batch_size, generator=self._captions)
        text[lot < self.identifier_share] = self.personal_text
        text[lot > 1 - self.empty_share] = self.empty_text
        noisy = self.reference.schedule.add_noise(*draw)
        return PreservationDraw(draw, text, self.reference.predict(noisy, draw.timesteps, text))


PreservationTerm = ClassPictures | Distillation


def preservation_error(denoiser: Denoiser, drawn: PreservationDraw) -> Tensor:
    """Unreduced (B, C, H, W) error of θ on a drawn batch."""
    if drawn.reference is None:
        return denoiser.squared_error(*drawn.draw, drawn.text)
    noisy = denoiser.schedule.add_noise(*drawn.draw)
    prediction = denoiser.predict(noisy, drawn.draw.timesteps, drawn.text)
    return (prediction - drawn.reference).square()
