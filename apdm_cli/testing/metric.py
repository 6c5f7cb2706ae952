"""What every metric must keep to."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest
import torch

from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.extension.checks import metric_problem
from apdm_cli.extension.metric import Metric, MetricUnavailable, Pictures, Score
from apdm_cli.testing.material import OnPocketModel, as_pictures, synthetic_photos


class MetricContract(OnPocketModel):
    """What every metric must keep to. Subclass it, set `metric`.

    A metric whose weights are not here is skipped, not failed.
    """

    metric: ClassVar[Metric]

    @pytest.fixture(scope="class")
    @classmethod
    def ready(cls, model: DiffusionModel) -> Metric:
        """The metric, prepared."""
        try:
            cls.metric.prepare(model, torch.device("cpu"))
        except MetricUnavailable as reason:
            pytest.skip(str(reason))
        return cls.metric

    @pytest.fixture
    def pictures(self, model: DiffusionModel) -> Pictures:
        """Six smooth random pictures with prompts, photos and a reference."""
        images = as_pictures(synthetic_photos(model.resolution, 6).pixels)
        return Pictures(
            images,
            prompts=["a photo of person"] * len(images),
            photos=as_pictures(synthetic_photos(model.resolution, 3, seed=1).pixels),
            reference=as_pictures(synthetic_photos(model.resolution, 6, seed=2).pixels),
            pairs=as_pictures(synthetic_photos(model.resolution, 6, seed=3).pixels),
        )

    def test_is_usable(self) -> None:
        """Name and direction are in order, and there is a line for the lists."""
        assert metric_problem(self.metric) is None
        assert self.metric.summary, "give the class a docstring"
        assert self.metric.needs <= {"photos", "prompts", "reference", "pairs"}

    def test_counts_and_names_its_backend(self, ready: Metric, pictures: Pictures) -> None:
        """Every picture is scored or skipped, and the extractor is named."""
        score = ready.score(pictures)
        assert isinstance(score, Score)
        assert score.metric == ready.name
        assert score.n + score.skipped == len(pictures.images)
        assert score.backend.name and score.backend.digest

    def test_order_does_not_matter(self, ready: Metric, pictures: Pictures) -> None:
        """The pictures in another order have the same score."""
        order = torch.arange(len(pictures.images)).flip(0)
        assert pictures.pairs is not None
        turned = replace(pictures, images=pictures.images[order], pairs=pictures.pairs[order])
        assert ready.score(turned).value == pytest.approx(
            ready.score(pictures).value, rel=1e-4, abs=1e-4
        )
