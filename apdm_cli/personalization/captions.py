"""What the photos are called, picture by picture, and what is left out of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from apdm_cli.diffusion.condition import Condition

TRIGGER = "[trigger]"


@dataclass
class PhotoCaptions:
    """Captions that differ from draw to draw.

    Attributes:
        condition: what a prompt becomes, a batch of one.
        prompts: one for every picture, or a single one for all.
        dropout: share of the draws whose caption is empty, as for classifier-free guidance
            (arXiv 2207.12598).
        generator: says which.
    """

    condition: Callable[[str], Condition]
    prompts: Sequence[str]
    dropout: float
    generator: torch.Generator

    def __call__(self, indices: Tensor) -> Condition:
        """The condition of the pictures `indices` (B,), B rows."""
        dropped = (torch.rand(len(indices), generator=self.generator) < self.dropout).tolist()
        one = len(self.prompts) == 1
        said = [
            "" if gone else self.prompts[0 if one else index]
            for index, gone in zip(indices.tolist(), dropped, strict=True)
        ]
        distinct = list(dict.fromkeys(said))
        rows = Condition.cat([self.condition(prompt) for prompt in distinct])
        return rows.index([distinct.index(prompt) for prompt in said])


def spoken(caption: str, personal_prompt: str, word: str) -> str:
    """The prompt of a photo with the caption `caption`, which may be empty.

    A caption with "[trigger]" is the whole prompt, with `word` in that place; another one only
    describes the photo, and follows the personal prompt.
    """
    if TRIGGER in caption:
        return " ".join(caption.replace(TRIGGER, word).split())
    return f"{personal_prompt}, {caption}" if caption else personal_prompt
