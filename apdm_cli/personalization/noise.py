"""Noise that is not white, as trainers offer it for darker and brighter pictures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate


@dataclass(frozen=True)
class Noise:
    """Gaussian noise with more of the low frequencies than white noise has.

    Attributes:
        offset: adds offset · N(0, 1), one number a channel, so that the mean of a picture can be
            learned as well ("Diffusion with Offset Noise", N. Guttenberg, Cross Labs 2023).
        discount, iterations: adds discountⁱ times white noise on a grid that is coarser each time
            by a random factor of 2 to 4, for i = 0, 1, ... below `iterations`, and scales the sum
            to the size of white noise ("Multi-Resolution Noise for Diffusion Model Training",
            J. Whitaker, 2023, also known as pyramid noise). Discount 0 adds none.
    """

    offset: float = 0.0
    discount: float = 0.0
    iterations: int = 6

    @property
    def white(self) -> bool:
        """Whether nothing is added."""
        return self.offset == 0 and self.discount == 0

    def color(self, noise: Tensor, generator: torch.Generator) -> Tensor:
        """`noise`, white, (B, C, H, W), with what is added; on the CPU."""
        if self.offset > 0:
            means = torch.randn(*noise.shape[:2], 1, 1, generator=generator)
            noise = noise + self.offset * means
        return self._with_coarse_grids(noise, generator) if self.discount > 0 else noise

    def _with_coarse_grids(self, noise: Tensor, generator: torch.Generator) -> Tensor:
        total, sides = noise, noise.shape[2:]
        for index in range(self.iterations):
            factor = 2 + 2 * float(torch.rand((), generator=generator))
            height, width = (max(1, int(side / factor**index)) for side in sides)
            grid = torch.randn(*noise.shape[:2], height, width, generator=generator)
            fine = interpolate(grid, size=sides, mode="bilinear", align_corners=False)
            total = total + self.discount**index * fine
            if height == width == 1:
                break
        return total / total.std(dim=(1, 2, 3), keepdim=True)


WHITE = Noise()
