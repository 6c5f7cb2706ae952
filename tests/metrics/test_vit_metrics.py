"""dino, diversity and same-seed against plain calculations, and where they must not move."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.evaluation import extractors
from apdm_cli.extension.metric import MetricUnavailable, Pictures
from apdm_metrics.similarity import Dino, Diversity, SameSeed
from tests.metrics.material import make_vit, pictures

CPU = torch.device("cpu")


def prepared(metric: Any, model: DiffusionModel, **weights: Path) -> Any:
    metric.weights = {name.replace("_", "-"): str(path) for name, path in weights.items()}
    metric.prepare(model, CPU)
    return metric


def plain_dino_features(folder: Path, images: torch.Tensor) -> np.ndarray:
    """The published protocol, written with torchvision and transformers alone."""
    from torchvision import transforms
    from transformers import AutoModel

    network = AutoModel.from_pretrained(folder).eval()
    prepare = transforms.Compose(
        [
            transforms.Resize(256, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    rows = []
    with torch.no_grad():
        for image in images:
            batch = prepare(Image.fromarray(image.numpy())).unsqueeze(0)
            rows.append(network(pixel_values=batch).last_hidden_state[0, 0].numpy())
    return np.stack(rows).astype(np.float64)


def test_dino_is_the_mean_cosine_of_all_pairs_after_the_published_preprocessing(
    tiny_model: DiffusionModel, tmp_path: Path
) -> None:
    folder = make_vit(tmp_path / "dino", side=224, patch=16)
    photos = torch.cat([pictures(3, 80, seed=4)[:, :64]])  # 64 x 80: the crop must matter
    images = pictures(5, 96, seed=5)
    metric = prepared(Dino(), tiny_model, dino=folder)

    score = metric.score(Pictures(images, photos=photos))

    a, b = plain_dino_features(folder, photos), plain_dino_features(folder, images)
    cosines = [[x @ y / (np.linalg.norm(x) * np.linalg.norm(y)) for y in b] for x in a]
    assert score.value == pytest.approx(np.mean(cosines), abs=1e-5)
    assert score.per_picture == pytest.approx(np.mean(cosines, axis=0), abs=1e-5)
    assert np.std(cosines) > 1e-3, "the test's extractor does not tell pictures apart"
    assert score.backend.name == "dino-vits16"
    assert score.n == 5


def test_pocket_extractor_takes_pictures_in_minus_one_to_one(
    tiny_model: DiffusionModel, vit: Path
) -> None:
    from transformers import ViTModel

    images = pictures(2)
    metric = prepared(Dino(), tiny_model, pocket_vit=vit)
    with torch.no_grad():
        expected = (
            ViTModel.from_pretrained(vit, add_pooling_layer=False)
            .eval()(pixel_values=images.permute(0, 3, 1, 2) / 127.5 - 1)
            .last_hidden_state[:, 0]
        )
    assert torch.allclose(metric.extractor.features(images), expected, atol=1e-5)
    assert metric.extractor.backend.name == "pocket-vit"
    assert len(metric.extractor.backend.digest) == 64


def test_the_same_picture_everywhere_scores_one(tiny_model: DiffusionModel, vit: Path) -> None:
    same = pictures(1).repeat(4, 1, 1, 1)
    assert prepared(Dino(), tiny_model, pocket_vit=vit).score(
        Pictures(same, photos=same)
    ).value == pytest.approx(1)
    assert prepared(SameSeed(), tiny_model, pocket_vit=vit).score(
        Pictures(same, pairs=same)
    ).value == pytest.approx(1)
    assert prepared(Diversity(), tiny_model, pocket_vit=vit).score(
        Pictures(same)
    ).value == pytest.approx(0, abs=1e-6)


def test_diversity_is_one_minus_the_mean_of_different_pairs(
    tiny_model: DiffusionModel, vit: Path
) -> None:
    metric = prepared(Diversity(), tiny_model, pocket_vit=vit)
    images = pictures(5)
    rows = metric.extractor.features(images).double().numpy()
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    pairs = [rows[i] @ rows[j] for i in range(5) for j in range(i)]
    assert metric.score(Pictures(images)).value == pytest.approx(1 - np.mean(pairs))


def test_same_seed_compares_each_picture_with_its_partner_only(
    tiny_model: DiffusionModel, vit: Path
) -> None:
    metric = prepared(SameSeed(), tiny_model, pocket_vit=vit)
    images = pictures(4)
    turned = metric.score(Pictures(images, pairs=images.flip(0)))
    assert turned.value < 0.999
    assert metric.score(Pictures(images, pairs=images)).value == pytest.approx(1)


@pytest.mark.parametrize("kind", [Dino, Diversity, SameSeed])
def test_order_and_batch_size_change_nothing(
    kind: Any, tiny_model: DiffusionModel, vit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metric = prepared(kind(), tiny_model, pocket_vit=vit)
    shown = Pictures(pictures(7), photos=pictures(3, seed=1), pairs=pictures(7, seed=2))
    score = metric.score(shown)
    order = torch.tensor([3, 6, 0, 1, 5, 2, 4])
    assert shown.pairs is not None
    turned = metric.score(replace(shown, images=shown.images[order], pairs=shown.pairs[order]))
    monkeypatch.setattr(extractors, "BATCH", 2)
    small = metric.score(shown)
    for other in (turned, small):
        assert other.value == pytest.approx(score.value, abs=1e-6)
        assert (other.low, other.high) == pytest.approx((score.low, score.high), abs=1e-6)


def test_the_interval_is_around_the_value_and_the_same_every_time(
    tiny_model: DiffusionModel, vit: Path
) -> None:
    metric = prepared(Dino(), tiny_model, pocket_vit=vit)
    shown = Pictures(pictures(12), photos=pictures(4, seed=1))
    first, again = metric.score(shown), metric.score(shown)
    assert first.low < first.value < first.high
    assert (first.low, first.high) == (again.low, again.high)
    assert metric.score(Pictures(pictures(1), photos=pictures(4))).low is None


def test_constant_pictures_are_skipped_and_counted(tiny_model: DiffusionModel, vit: Path) -> None:
    metric = prepared(Dino(), tiny_model, pocket_vit=vit)
    images, photos = pictures(4), pictures(2, seed=1)
    black = torch.zeros(2, 32, 32, 3, dtype=torch.uint8)
    red = black[:1].clone()
    red[..., 0] = 200
    score = metric.score(Pictures(torch.cat([black, images, red]), photos=photos))
    assert (score.n, score.skipped) == (4, 3)
    assert score.value == pytest.approx(metric.score(Pictures(images, photos=photos)).value)
    nothing = metric.score(Pictures(black, photos=photos))
    assert math.isnan(nothing.value)
    assert (nothing.n, nothing.skipped) == (0, 2)


def test_without_dino_the_pocket_extractor_stands_in_or_the_reason_is_said(
    tiny_model: DiffusionModel, vit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apdm_metrics import similarity as backend

    monkeypatch.setattr(extractors, "pocket_extractor", lambda device, folder: ("stand-in", folder))
    backend._pocket.cache_clear()
    metric: Any = prepared(Dino(), tiny_model)
    backend._pocket.cache_clear()
    assert metric.extractor == ("stand-in", None)
    with pytest.raises(MetricUnavailable, match="--weights dino=/nowhere"):
        prepared(Dino(), tiny_model, dino=Path("/nowhere"))


def test_a_folder_without_a_transformer_is_named(
    tiny_model: DiffusionModel, tmp_path: Path
) -> None:
    with pytest.raises(MetricUnavailable, match=r"config\.json and model\.safetensors"):
        prepared(Dino(), tiny_model, pocket_vit=tmp_path)
