"""The similarity that an attacker looks at: the evaluation's own, to make the attacker strong."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.extension.metric import Metric, MetricUnavailable, Pictures
from apdm_cli.harness.workbench import Judge

METRIC = "dino"


def make_judge(available: Mapping[str, Metric]) -> Judge | None:
    """A judge from the metric `dino`; None without that metric.

    The judge itself gives None where the metric's weights are not here.
    """
    metric = available.get(METRIC)
    if metric is None:
        return None

    def judge(model: DiffusionModel, photos: Tensor) -> Callable[[Tensor], float] | None:
        try:
            metric.prepare(model, model.device)
        except MetricUnavailable:
            return None
        return lambda pictures: metric.score(Pictures(pictures, photos=photos)).value

    return judge
