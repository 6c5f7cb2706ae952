"""Distances between what two models draw, in Inception's features or the pocket extractor's."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apdm_cli.errors import ApdmError
from apdm_cli.evaluation.profiles import is_pocket
from apdm_cli.extension.metric import Backend, Metric, MetricUnavailable, Pictures, Score
from apdm_metrics.lookup import given, torch_file
from apdm_metrics.scores import distance_score
from apdm_metrics.similarity import DINO_KEY, POCKET_KEY, choose_extractor

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from apdm_cli.diffusion.model import DiffusionModel

KEY = "inception"
SIDE = 256  # both sides are resized to 256² first, as in the published protocol
BATCH = 16


class DistributionMetric(Metric):
    """A metric on two sets of features.

    `--weights inception=FILE` takes pytorch-fid's weights (.pth or .safetensors).
    """

    reads = (KEY, POCKET_KEY)
    extractor: Any

    def prepare(self, model: DiffusionModel, device: torch.device) -> None:
        path = given(self.weights, KEY)
        pocket = {name: at for name, at in self.weights.items() if name != DINO_KEY}
        if path is None and (is_pocket(model) or POCKET_KEY in pocket):
            self.extractor = choose_extractor(model, device, pocket)
            return
        try:
            self.extractor = load_inception(path, device)
        except MetricUnavailable:
            if path is not None:
                raise
            self.extractor = _pocket(device)

    @property
    def backend(self) -> Backend:
        """The extractor behind the features; the pocket one stands in for Inception."""
        backend: Backend = self.extractor.backend
        return replace(backend, stand_in="pocket") if backend.stand_in else backend


class Fid(DistributionMetric):
    """Fréchet distance of features, float64; depends on n: compare equal n only."""

    name = "fid"
    title = "Distance between sets of pictures"
    explanation = (
        "Fréchet distance between the features of two sets. Read it beside the distance between "
        "two seeds of the original model, which is what no change at all looks like."
    )
    kind = "distance"
    better = "lower"
    better_for_others = "lower"
    biased_below = 2048  # pytorch-fid's README: at least as many pictures as features
    needs = frozenset({"reference"})

    def score(self, pictures: Pictures) -> Score:
        from apdm_cli.evaluation.distances import frechet_distance

        return distance_score(
            self, pictures, self.extractor.features, frechet_distance, self.backend
        )


class Kid(DistributionMetric):
    """Unbiased kernel distance of features (cubic kernel), float64; about 0 for equal models."""

    name = "kid"
    title = "Distance between sets of pictures"
    explanation = (
        "Kernel distance between the features of two sets; 0 is what no change looks like."
    )
    kind = "distance"
    better = "lower"
    better_for_others = "lower"
    needs = frozenset({"reference"})

    def score(self, pictures: Pictures) -> Score:
        return distance_score(self, pictures, self.extractor.features, _kernel, self.backend)


def _kernel(x: Tensor, y: Tensor) -> float:
    from apdm_cli.evaluation.distances import kernel_distance
    from apdm_cli.randomness import Streams

    # The subsets are drawn from an order that the pictures' own does not reach.
    x, y = x[x[:, 0].argsort()], y[y[:, 0].argsort()]
    return kernel_distance(x, y, Streams(0).generator("kid"))


def _pocket(device: torch.device) -> Any:
    from apdm_cli.evaluation.extractors import pocket_extractor

    try:
        return pocket_extractor(device)
    except ApdmError as error:
        raise MetricUnavailable(str(error)) from error


@lru_cache(maxsize=1)
def load_inception(path: Path | None, device: torch.device) -> InceptionExtractor:
    """pytorch-fid's Inception from a file, torch hub's cache or the network."""
    from piq.feature_extractors import fid_inception

    from apdm_cli.digests import file_digest

    tensors, file = torch_file(fid_inception.FID_WEIGHTS_URL, KEY, path)
    try:
        network = _network(tensors)
    except RuntimeError as error:
        raise MetricUnavailable(f"{file} does not hold pytorch-fid's Inception") from error
    backend = Backend("inception-pytorch-fid", file_digest([file]))
    return InceptionExtractor(backend, network.to(device), device)


def _network(tensors: dict[str, Tensor]) -> torch.nn.Module:
    """piq's wrapper around pytorch-fid's network, filled with `tensors` instead of a download."""
    from piq.feature_extractors import fid_inception as piq_inception

    class Filled(piq_inception.InceptionV3):
        @staticmethod
        def fid_inception_v3() -> torch.nn.Module:
            network = piq_inception.models.inception_v3(
                num_classes=1008, aux_logits=False, weights=None, init_weights=False
            )
            blocks: dict[str, torch.nn.Module] = {
                "Mixed_5b": piq_inception.FIDInceptionA(192, pool_features=32),
                "Mixed_5c": piq_inception.FIDInceptionA(256, pool_features=64),
                "Mixed_5d": piq_inception.FIDInceptionA(288, pool_features=64),
                "Mixed_6b": piq_inception.FIDInceptionC(768, channels_7x7=128),
                "Mixed_6c": piq_inception.FIDInceptionC(768, channels_7x7=160),
                "Mixed_6d": piq_inception.FIDInceptionC(768, channels_7x7=160),
                "Mixed_6e": piq_inception.FIDInceptionC(768, channels_7x7=192),
                "Mixed_7b": piq_inception.FIDInceptionE1(1280),
                "Mixed_7c": piq_inception.FIDInceptionE2(2048),
            }
            for name, block in blocks.items():
                setattr(network, name, block)
            network.load_state_dict(tensors)
            return network

    return Filled().eval()


class InceptionExtractor:
    """Pooled features (N, 2048) of pytorch-fid's Inception."""

    def __init__(self, backend: Backend, network: torch.nn.Module, device: torch.device) -> None:
        self.backend, self.network, self.device = backend, network, device

    def features(self, pictures: Tensor) -> Tensor:
        """uint8 (N, H, W, 3) to float32 (N, 2048)."""
        import torch
        from torchvision.transforms.v2.functional import resize

        found = []
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            for part in pictures.split(BATCH):
                pixels = resize(part.permute(0, 3, 1, 2), [SIDE, SIDE], antialias=True)
                found.append(self.network(pixels.to(self.device).float() / 255)[0].flatten(1))
        return torch.cat(found)
