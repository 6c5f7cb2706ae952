"""A similarity to the subject's photos: the kind of metric that the verdict may rest on."""

import torch

from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.extension.metric import Backend, Metric, Pictures, Score

BINS = 4  # per channel


class Palette(Metric):
    """Mean cosine of colour histograms over all photo x picture pairs (lower protects better)."""

    name = "palette"
    title = "Colours of the subject"
    explanation = "How alike the colours of pictures and photos are. 1: the same mixture."
    kind = "similarity"
    better = "lower"  # for the protected person
    better_for_others = "higher"  # somebody else should stay teachable
    leads = True
    needs = frozenset({"photos"})

    def prepare(self, model: DiffusionModel, device: torch.device) -> None:
        """There is no extractor to load."""

    def score(self, pictures: Pictures) -> Score:
        """Mean over the pictures."""
        assert pictures.photos is not None  # `needs` says so
        pairs = histograms(pictures.images) @ histograms(pictures.photos).T
        each = pairs.mean(dim=1).tolist()
        return Score(
            self.name,
            sum(each) / len(each),
            n=len(each),
            skipped=0,
            backend=Backend("colour histogram", str(BINS)),
            per_picture=tuple(each),
        )


def histograms(pictures: torch.Tensor) -> torch.Tensor:
    """Unit-length histograms (N, BINS³) of uint8 pictures (N, H, W, 3)."""
    bins = (pictures.long() * BINS).div(256, rounding_mode="floor")
    index = (bins[..., 0] * BINS + bins[..., 1]) * BINS + bins[..., 2]
    counts = torch.nn.functional.one_hot(index.flatten(1), BINS**3).double().sum(1)
    return counts / counts.norm(dim=1, keepdim=True)
