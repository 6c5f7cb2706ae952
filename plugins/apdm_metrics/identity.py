"""Face identity: announced, and not part of this version."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, NoReturn

from apdm_cli.extension.metric import Metric, MetricUnavailable, Pictures

if TYPE_CHECKING:
    import torch

    from apdm_cli.diffusion.model import DiffusionModel


class Identity(Metric):
    """Face similarity and share of pictures without a face; needs a face library of your own."""

    name = "identity"
    better: ClassVar[Literal["lower", "higher"]] = "lower"
    needs = frozenset({"photos"})
    optional = True

    def prepare(self, model: DiffusionModel, device: torch.device) -> NoReturn:
        raise MetricUnavailable(
            "no face library comes with this version; a plugin with a metric of its own can bring "
            "one (docs/metrics.md)"
        )

    def score(self, pictures: Pictures) -> NoReturn:
        raise MetricUnavailable("no face library")
