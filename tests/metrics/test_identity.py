"""ISM and FDFR: what enters, what does not, and what is said where nothing does."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.extension.metric import Backend, Metric, MetricUnavailable, Pictures
from apdm_cli.testing import MetricContract
from apdm_metrics.faces.descriptor import distance
from apdm_metrics.faces.detector import Box
from apdm_metrics.identity import FaceDetectionFailureRate, Identity
from tests.metrics.faces import make_face_api
from tests.metrics.material import photograph, pictures

CPU = torch.device("cpu")


class Painted:
    """In the place of a recognizer: a picture whose first red value is 255 has no face, and the
    next two values describe the face of any other."""

    backend = Backend("painted", "-")

    def boxes(self, images: Tensor) -> list[Box | None]:
        return [None if int(one[0, 0, 0]) == 255 else Box(0, 0, 1, 1, 1.0) for one in images]

    def descriptors(self, images: Tensor) -> list[Tensor | None]:
        there = self.boxes(images)
        return [
            None if box is None else one[0, 0, 1:].float() / 100
            for box, one in zip(there, images, strict=True)
        ]

    def likeness(self, found: Tensor, known: Tensor) -> Tensor:
        return 1 - distance(found, known.mean(0))


def painted(*faces: tuple[int, int] | None) -> Tensor:
    images = pictures(len(faces), 8)
    for image, face in zip(images, faces, strict=True):
        image[0, 0] = torch.tensor([255, 0, 0] if face is None else [0, *face], dtype=torch.uint8)
    return images


@pytest.fixture
def ism() -> Any:
    metric = Identity()
    metric.faces = Painted()  # type: ignore[assignment]
    return metric


@pytest.fixture
def fdfr() -> Any:
    metric = FaceDetectionFailureRate()
    metric.faces = Painted()  # type: ignore[assignment]
    return metric


def test_ism_is_one_minus_the_distance_to_the_mean_face(ism: Any) -> None:
    photos = painted((0, 0), (0, 100), None)  # their mean is (0, 0.5)
    score = ism.score(Pictures(painted((0, 50), None, (40, 80), (0, 150)), photos=photos))
    assert score.per_picture == pytest.approx([1.0, 0.5, 0.0])
    assert score.value == pytest.approx(0.5)
    assert (score.n, score.skipped) == (3, 1)


def test_fdfr_is_the_share_of_pictures_without_a_face(fdfr: Any) -> None:
    images = painted((0, 0), None, None, (1, 1), None)
    images[4] = 0  # one colour: nobody's picture
    score = fdfr.score(Pictures(images, photos=painted(None)))
    assert score.value == 0.5
    assert (score.n, score.skipped) == (4, 1)


def test_where_nothing_has_a_face_there_is_no_similarity_but_a_reason(ism: Any) -> None:
    nobody = ism.score(Pictures(painted(None, None), photos=painted((0, 0))))
    unknown = ism.score(Pictures(painted((0, 0)), photos=painted(None, None, None)))
    for score, skipped in ((nobody, 2), (unknown, 1)):
        assert math.isnan(score.value)
        assert (score.n, score.skipped) == (0, skipped)
    assert nobody.why == "no face was found in any of the 2 pictures"
    assert unknown.why == "no face was found in any of the 3 photos"


@pytest.mark.parametrize("metric", [Identity(), FaceDetectionFailureRate()])
def test_without_weights_they_are_named_and_never_taken_by_auto(
    metric: Metric, tiny_model: DiffusionModel
) -> None:
    assert metric.optional
    with pytest.raises(
        MetricUnavailable, match=r"npm pack @vladmandic/face-api.*--weights identity="
    ):
        metric.prepare(tiny_model, CPU)


class OnRandomWeights(MetricContract):
    @pytest.fixture
    def pictures(self) -> Pictures:
        """Fewer than usual: the detector looks at 512 x 512 pixels, whatever the picture."""
        return Pictures(pictures(2), photos=pictures(1, seed=1), pairs=pictures(2, seed=2))

    @pytest.fixture
    def model(self, tiny_model: DiffusionModel) -> DiffusionModel:
        return tiny_model

    @pytest.fixture
    def ready(self, model: DiffusionModel, tmp_path_factory: pytest.TempPathFactory) -> Metric:
        self.metric.weights = {"identity": str(face_api(tmp_path_factory))}
        self.metric.prepare(model, CPU)
        return self.metric


_made: list[Path] = []


def face_api(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not _made:
        _made.append(make_face_api(tmp_path_factory.mktemp("face-api")))
    return _made[0]


class TestIdentity(OnRandomWeights):
    metric = Identity()


class TestFaceDetectionFailureRate(OnRandomWeights):
    metric = FaceDetectionFailureRate()


@pytest.mark.extras
@pytest.mark.skipif(not os.environ.get("APDM_FACE_API"), reason="APDM_FACE_API names no folder")
def test_portraits_are_scored(tiny_model: DiffusionModel) -> None:
    """The photo itself, its mirror image, and a corner of it in which there is nobody."""
    weights = {"identity": os.environ["APDM_FACE_API"]}
    whole = photograph(512)
    images = torch.cat([whole, whole.flip(2), whole.roll(256, 1).roll(256, 2)])
    images[2, :] = whole[0, 300:301]
    scores = {}
    for metric in (Identity(), FaceDetectionFailureRate()):
        metric.weights = weights
        metric.prepare(tiny_model, CPU)
        scores[metric.name] = metric.score(Pictures(images, photos=whole))
    assert scores["identity"].per_picture[0] == pytest.approx(1.0, abs=1e-6)
    assert 0.55 < scores["identity"].per_picture[1] < 1
    assert (scores["identity"].n, scores["identity"].skipped) == (2, 1)
    assert scores["fdfr"].value == pytest.approx(1 / 3)
