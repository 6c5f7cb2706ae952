"""Perceptual distance of two models' pictures from the same noise."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apdm_cli.evaluation.profiles import is_pocket
from apdm_cli.extension.metric import Backend, Metric, MetricUnavailable, Pictures, Score
from apdm_metrics.lookup import given, torch_file
from apdm_metrics.scores import mean_score, nothing_to_score, usable

if TYPE_CHECKING:
    import torch

    from apdm_cli.diffusion.model import DiffusionModel

KEY = "lpips"
VGG_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
HEAD_URL = (
    "https://github.com/photosynthesis-team/photosynthesis.metrics/"
    "releases/download/v0.4.0/lpips_weights.pt"
)
LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
BATCH = 8


class Lpips(Metric):
    """LPIPS (VGG-16, piq) against the original's picture of the same prompt and seed.

    `--weights lpips=FOLDER` takes a folder with vgg16-397923af.pth and lpips_weights.pt.
    """

    name = "lpips"
    title = "Perceptual change"
    explanation = "How far apart two pictures of one seed look. 0 is no change."
    kind = "quality"
    better = "lower"
    better_for_others = "lower"
    needs = frozenset({"pairs"})

    def prepare(self, model: DiffusionModel, device: torch.device) -> None:
        folder = given(self.weights, KEY)
        if folder is None and is_pocket(model):
            raise MetricUnavailable(
                "LPIPS was trained on photographs, not on the pocket model's drawings; "
                "insist with --weights lpips=FOLDER"
            )
        self._network, self._backend = load_lpips(folder)
        self._device = device

    def score(self, pictures: Pictures) -> Score:
        import torch

        assert pictures.pairs is not None
        kept = usable(pictures.images) & usable(pictures.pairs)
        skipped = int((~kept).sum())
        if not kept.any():
            return nothing_to_score(self, self._backend, skipped)
        sides = (pictures.images[kept].split(BATCH), pictures.pairs[kept].split(BATCH))
        with torch.no_grad():
            values = (
                torch.cat(
                    [
                        self._network(
                            *(
                                side.to(self._device).permute(0, 3, 1, 2).float() / 255
                                for side in both
                            )
                        )
                        for both in zip(*sides, strict=True)
                    ]
                )
                .double()
                .cpu()
            )
        return mean_score(self, values, skipped, self._backend)


@lru_cache(maxsize=1)
def load_lpips(folder: Path | None) -> tuple[Any, Backend]:
    """piq's LPIPS filled from local files, torch hub's cache or the network."""
    from piq.perceptual import VGG16_LAYERS, ContentLoss
    from torchvision.models import vgg16

    from apdm_cli.digests import file_digest

    found = [
        torch_file(url, KEY, folder / url.rsplit("/", 1)[-1] if folder else None)
        for url in (HEAD_URL, VGG_URL)
    ]
    (head, head_file), (weights, vgg_file) = found
    network = vgg16(weights=None)
    network.load_state_dict(weights)
    loss = ContentLoss(
        network.features.eval(),
        layers=[VGG16_LAYERS[name] for name in LAYERS],
        weights=list(head),
        distance="mse",
        reduction="none",
        normalize_features=True,
    )
    return loss, Backend("piq-lpips-vgg16", file_digest([head_file, vgg_file]))
