"""fid and kid: which features they use, and what they do with pictures."""

from __future__ import annotations

import functools
import importlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.evaluation.distances import frechet_distance
from apdm_cli.extension.metric import MetricUnavailable, Pictures
from apdm_metrics import distances
from apdm_metrics.distances import Fid, Kid
from tests.metrics.material import noisy, pictures

CPU = torch.device("cpu")


def prepared(metric: Any, model: DiffusionModel, vit: Path) -> Any:
    metric.weights = {"pocket-vit": str(vit)}
    metric.prepare(model, CPU)
    return metric


def test_inception_is_piqs_with_the_given_weights(
    tiny_model: DiffusionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random weights through our loader and through piq's own, which would download them."""
    piq_inception = importlib.import_module("piq.feature_extractors.fid_inception")
    quick = functools.partial(piq_inception.models.inception_v3, init_weights=False)
    monkeypatch.setattr(piq_inception.models, "inception_v3", quick)
    state: dict[str, torch.Tensor] = {}
    with monkeypatch.context() as blank, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        blank.setattr(piq_inception, "load_state_dict_from_url", lambda url, progress: None)
        blank.setattr(piq_inception.models.Inception3, "load_state_dict", lambda *_: None)
        state |= piq_inception.InceptionV3.fid_inception_v3().state_dict()
    monkeypatch.setattr(piq_inception, "load_state_dict_from_url", lambda url, progress: state)
    reference = piq_inception.InceptionV3().eval()
    save_file(state, tmp_path / "inception.safetensors")

    metric = Fid()
    metric.weights = {"inception": str(tmp_path / "inception.safetensors")}
    metric.prepare(tiny_model, CPU)
    images = pictures(2, 256)
    found = metric.extractor.features(images)

    with torch.no_grad():
        expected = reference(images.permute(0, 3, 1, 2) / 255)[0].flatten(1)
    assert found.shape == (2, 2048)
    assert torch.allclose(found, expected, atol=1e-4, rtol=1e-3)
    assert metric.extractor.backend.name == "inception-pytorch-fid"


def test_weights_of_something_else_are_refused(tiny_model: DiffusionModel, tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    metric = Fid()
    metric.weights = {"inception": str(tmp_path / "other.safetensors")}
    with pytest.raises(MetricUnavailable, match="does not hold pytorch-fid's Inception"):
        metric.prepare(tiny_model, CPU)


def test_fid_is_the_distance_of_features_and_zero_for_the_same_set(
    tiny_model: DiffusionModel, vit: Path
) -> None:
    metric = prepared(Fid(), tiny_model, vit)
    images, reference = pictures(20), pictures(20, seed=1)
    score = metric.score(Pictures(images, reference=reference))
    expected = frechet_distance(
        metric.extractor.features(images), metric.extractor.features(reference)
    )
    assert score.value == pytest.approx(expected)
    assert score.low < score.value < score.high
    same = metric.score(Pictures(images, reference=images.flip(0)))
    assert same.value == pytest.approx(0, abs=1e-6)
    assert score.backend.name == "pocket-vit"


@pytest.mark.parametrize("kind", [Fid, Kid])
def test_noise_raises_the_distance_and_order_does_not(
    kind: Any, tiny_model: DiffusionModel, vit: Path
) -> None:
    metric = prepared(kind(), tiny_model, vit)
    images = pictures(24)
    shown = [Pictures(noisy(images, s), reference=images) for s in (10, 30, 80)]
    values = [metric.score(one).value for one in shown]
    assert values == sorted(values)
    assert values[0] < values[-1]
    order = torch.randperm(24)
    score = metric.score(shown[1])
    turned = metric.score(Pictures(shown[1].images[order], reference=images[order]))
    assert turned.value == pytest.approx(score.value, abs=1e-6)
    assert (turned.low, turned.high) == pytest.approx((score.low, score.high), abs=1e-5)


@pytest.mark.parametrize("kind", [Fid, Kid])
def test_black_pictures_are_left_out_on_both_sides(
    kind: Any, tiny_model: DiffusionModel, vit: Path
) -> None:
    metric = prepared(kind(), tiny_model, vit)
    images, reference = pictures(6), pictures(6, seed=1)
    black = torch.zeros(3, 32, 32, 3, dtype=torch.uint8)
    plain = metric.score(Pictures(images, reference=reference))
    mixed = metric.score(
        Pictures(torch.cat([black, images]), reference=torch.cat([reference, black]))
    )
    assert mixed.value == pytest.approx(plain.value)
    assert (mixed.n, mixed.skipped) == (6, 3)
    assert math.isnan(metric.score(Pictures(black, reference=reference)).value)


def test_without_inception_the_pocket_extractor_stands_in(
    tiny_model: DiffusionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distances, "_pocket", lambda device: "stand-in")
    distances.load_inception.cache_clear()
    metric = Fid()
    metric.prepare(tiny_model, CPU)
    assert metric.extractor == "stand-in"
