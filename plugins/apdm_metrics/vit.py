"""The extractor behind `dino`, `diversity` and `same-seed`, loaded once for all three."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from apdm_cli.errors import ApdmError
from apdm_cli.evaluation.profiles import is_pocket
from apdm_cli.extension.metric import Metric, MetricUnavailable
from apdm_metrics.lookup import given, hub_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from apdm_cli.diffusion.model import DiffusionModel
    from apdm_cli.evaluation.extractors import Extractor

DINO_KEY, POCKET_KEY = "dino", "pocket-vit"
FILES = ("config.json", "model.safetensors")


class VitMetric(Metric):
    """A metric on class tokens: DINO for photographs, the pocket extractor for pocket pictures.

    `--weights dino=FOLDER` forces DINO, `--weights pocket-vit=FOLDER` another pocket extractor.
    """

    extractor: Extractor

    def prepare(self, model: DiffusionModel, device: torch.device) -> None:
        self.extractor = choose_extractor(model, device, self.weights)


def choose_extractor(
    model: DiffusionModel, device: torch.device, weights: Mapping[str, str]
) -> Extractor:
    """DINO when asked for or found; the pocket extractor for the pocket model or without DINO."""
    dino, pocket = given(weights, DINO_KEY), given(weights, POCKET_KEY)
    try:
        if dino:
            return _dino(dino, device)
        if pocket or is_pocket(model):
            return _pocket(pocket, device)
        try:
            return _dino(hub_folder("facebook/dino-vits16", FILES), device)
        except (MetricUnavailable, ApdmError):
            return _pocket(None, device)
    except ApdmError as error:
        raise MetricUnavailable(str(error)) from error


@lru_cache(maxsize=2)
def _dino(folder: Path, device: torch.device) -> Extractor:
    from apdm_cli.evaluation.extractors import dino_extractor

    return dino_extractor(device, folder)


@lru_cache(maxsize=2)
def _pocket(folder: Path | None, device: torch.device) -> Extractor:
    from apdm_cli.evaluation.extractors import pocket_extractor

    return pocket_extractor(device, folder)
