"""A metric in a few lines: a number about pictures, with its count and its backend.

What is declared in the class is what tables, verdict and report say of it.
"""

import torch

from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.plugin import Backend, Metric, Pictures, Score


class Sharpness(Metric):
    """Mean absolute difference of neighbouring pixels, 0 to 255: low for smeared pictures."""

    name = "sharpness"
    title = "Sharpness"
    explanation = "How much neighbouring pixels differ. Smeared pictures show less of anybody."
    kind = "quality"
    better = "lower"  # for the protected person
    better_for_others = "higher"

    def prepare(self, model: DiffusionModel, device: torch.device) -> None:
        """There is no extractor to load."""

    def score(self, pictures: Pictures) -> Score:
        """Mean over the pictures."""
        images = pictures.images.float()
        across = images.diff(dim=2).abs().mean(dim=(1, 2, 3))
        down = images.diff(dim=1).abs().mean(dim=(1, 2, 3))
        each = ((across + down) / 2).tolist()
        return Score(
            self.name,
            sum(each) / len(each),
            n=len(each),
            skipped=0,
            backend=Backend("pixel differences", "1"),
            per_picture=tuple(each),
        )
