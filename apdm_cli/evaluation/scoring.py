"""Metrics by name, their backends, and the scores of one set of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.photos import Photos
from apdm_cli.diffusion.pictures import from_unit
from apdm_cli.errors import UsageError
from apdm_cli.extension.manager import build_plugin_manager, choose, metrics
from apdm_cli.extension.metric import Metric, MetricUnavailable, Pictures
from apdm_cli.scores import MetricMeaning, Score, Unavailable

AUTO = "auto"
# Backends that several metrics share, beside the metrics' own names.
SHARED_BACKENDS = frozenset({"pocket-vit", "inception", "clip"})


@dataclass
class Panel:
    """Metrics whose backend is loaded, and why the others are not here."""

    metrics: list[Metric]
    unavailable: list[Unavailable] = field(default_factory=list)

    @property
    def meanings(self) -> tuple[MetricMeaning, ...]:
        """What the scores mean, in the order of the metrics."""
        return tuple(metric.meaning for metric in self.metrics)

    def scores(self, pictures: Pictures, about: str | None = None) -> tuple[Score, ...]:
        """A score by every metric that `pictures` suffice for.

        Args:
            about: only metrics that need this field ("photos": similarity to the subject).
        """
        there = {name for name in Pictures.__dataclass_fields__ if _given(getattr(pictures, name))}
        return tuple(
            metric.score(pictures)
            for metric in self.metrics
            if metric.needs <= there and (about is None or about in metric.needs)
        )


def open_panel(
    names: Sequence[str],
    model: DiffusionModel,
    weights: dict[str, str],
    available: dict[str, Metric] | None = None,
) -> Panel:
    """The metrics `names` ("auto": all that are not optional), ready for pictures of `model`.

    Args:
        weights: backend name → path.
        available: name → metric; what the plugins bring, if None.

    Raises:
        UsageError: an unknown metric (the nearest is named) or an unknown backend in `weights`.
    """
    available = metrics(build_plugin_manager()) if available is None else available
    known = sorted(SHARED_BACKENDS | available.keys())
    unknown = [name for name in weights if name not in known]
    if unknown:
        raise UsageError(
            f"--weights {unknown[0]}: no backend has this name", f"Known are: {', '.join(known)}."
        )
    chosen: list[Metric] = []
    for name in names:
        if name == AUTO:
            chosen += [one for one in available.values() if not one.optional]
        else:
            chosen.append(choose(available, name, "metric"))
    panel = Panel([])
    for metric in dict.fromkeys(chosen):
        metric.weights = weights
        try:
            metric.prepare(model, model.device)
        except MetricUnavailable as error:
            panel.unavailable.append(Unavailable(metric=metric.name, reason=str(error)))
        else:
            panel.metrics.append(metric)
    return panel


def photo_pictures(photos: Photos) -> Tensor:
    """Photos as uint8 (M, R, R, 3), in memory."""
    return from_unit(photos.pixels / 2 + 0.5)


def _given(value: Any) -> bool:
    return value is not None and (isinstance(value, torch.Tensor) or len(value) > 0)
