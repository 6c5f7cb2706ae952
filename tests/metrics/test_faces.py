"""Reading face-api's weights, and what its networks make of pictures.

The folder of the real weights is named by APDM_FACE_API (`npm pack @vladmandic/face-api`); without
it the real portraits are skipped, and the same code runs on random weights of the same shapes.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from apdm_cli.errors import ApdmError
from apdm_cli.extension.metric import MetricUnavailable
from apdm_metrics.faces.alignment import STEADY, aligned, mean_face, similarity
from apdm_metrics.faces.descriptor import SAME_PERSON, SIDE, distance
from apdm_metrics.faces.detector import Box
from apdm_metrics.faces.face_api import Faces, load_faces
from apdm_metrics.faces.layers import convolve, resized, squared
from apdm_metrics.faces.weights import read_weights
from tests.metrics.faces import make_face_api
from tests.metrics.material import pictures

CPU = torch.device("cpu")
NUMBERS = json.loads((Path(__file__).parent / "face_api_numbers.json").read_text())
REAL = os.environ.get("APDM_FACE_API")
needs_weights = pytest.mark.skipif(not REAL, reason="APDM_FACE_API names no folder of face-api")


@pytest.fixture(scope="module")
def random_faces(tmp_path_factory: pytest.TempPathFactory) -> Faces:
    return load_faces(make_face_api(tmp_path_factory.mktemp("face-api")), CPU)


@pytest.fixture(scope="module")
def real_faces() -> Faces:
    return load_faces(Path(REAL or ""), CPU)


def photograph(name: str) -> Image.Image:
    """Photographs that installed packages carry."""
    if name == "grace_hopper":
        from matplotlib.cbook import get_sample_data

        file: Any = get_sample_data("grace_hopper.jpg", asfileobj=False)
        return Image.open(file).convert("RGB")
    data = pytest.importorskip("skimage.data")
    return Image.fromarray(getattr(data, name)()).convert("RGB")


def as_tensor(picture: Image.Image) -> Tensor:
    """uint8 (1, H, W, 3)."""
    return torch.from_numpy(np.array(picture))[None]


def planes(picture: Tensor) -> Tensor:
    return picture.permute(0, 3, 1, 2).float()


# The format.


def manifest(folder: Path, *groups: dict[str, Any]) -> Path:
    file = folder / "weights_manifest.json"
    file.write_text(json.dumps(groups))
    return file


def test_quantized_numbers_are_scale_times_integer_plus_minimum(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(bytes([0, 1, 255]))
    quantization = {"dtype": "uint8", "scale": 0.5, "min": -3.25}
    entry = {"name": "x", "shape": [3], "dtype": "float32", "quantization": quantization}
    found = read_weights(manifest(tmp_path, {"paths": ["a.bin"], "weights": [entry]}))
    assert found["x"].dtype == torch.float32
    assert found["x"].tolist() == [-3.25, -2.75, 124.25]


def test_shards_are_one_sequence_of_bytes_and_filters_are_turned(tmp_path: Path) -> None:
    conv = np.arange(3 * 3 * 2 * 5, dtype=np.float32).reshape(3, 3, 2, 5)
    deep = np.arange(3 * 3 * 4, dtype=np.float32).reshape(3, 3, 4, 1)
    data = conv.tobytes() + deep.tobytes()
    (tmp_path / "1.bin").write_bytes(data[:101])  # within a number
    (tmp_path / "2.bin").write_bytes(data[101:])
    weights = [
        {"name": "a/filters", "shape": [3, 3, 2, 5], "dtype": "float32"},
        {"name": "a/depthwise_filter", "shape": [3, 3, 4, 1], "dtype": "float32"},
    ]
    found = read_weights(manifest(tmp_path, {"paths": ["1.bin", "2.bin"], "weights": weights}))
    assert found["a/filters"].shape == (5, 2, 3, 3)
    assert found["a/filters"][4, 1, 2, 0] == conv[2, 0, 1, 4]
    assert found["a/depthwise_filter"].shape == (4, 1, 3, 3)
    assert found["a/depthwise_filter"][3, 0, 1, 2] == deep[1, 2, 3, 0]


@pytest.mark.parametrize(("length", "message"), [(7, "end within x"), (9, "1 bytes are left over")])
def test_shards_of_another_length_are_refused(tmp_path: Path, length: int, message: str) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(length))
    entry = {"name": "x", "shape": [2], "dtype": "float32"}
    with pytest.raises(ApdmError, match=message):
        read_weights(manifest(tmp_path, {"paths": ["a.bin"], "weights": [entry]}))


def test_a_folder_without_the_weights_says_where_they_come_from(tmp_path: Path) -> None:
    with pytest.raises(MetricUnavailable, match="npm pack @vladmandic/face-api"):
        load_faces(tmp_path, CPU)
    folder = make_face_api(tmp_path)
    (folder / "face_recognition_model.bin").unlink()
    with pytest.raises(MetricUnavailable, match=r"face_recognition_model.*npm pack"):
        load_faces(folder, CPU)


# What TensorFlow does otherwise.


@pytest.mark.parametrize(("size", "stride", "kernel"), [(8, 2, 3), (7, 2, 3), (9, 1, 3), (5, 2, 1)])
def test_same_padding(size: int, stride: int, kernel: int) -> None:
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, size, size, generator=draws)
    filters = torch.randn(1, 1, kernel, kernel, generator=draws)
    found = convolve(x, filters, stride=stride)[0, 0]
    side = math.ceil(size / stride)
    before = max((side - 1) * stride + kernel - size, 0) // 2
    for row in range(side):
        for column in range(side):
            total = 0.0
            for i in range(kernel):
                for j in range(kernel):
                    y, z = row * stride + i - before, column * stride + j - before
                    if 0 <= y < size and 0 <= z < size:
                        total += float(x[0, 0, y, z] * filters[0, 0, i, j])
            assert float(found[row, column]) == pytest.approx(total, abs=1e-5)


@pytest.mark.parametrize(("height", "width", "side"), [(5, 7, 4), (3, 4, 9)])
def test_resizing_takes_pixels_where_tensorflow_1_does(height: int, width: int, side: int) -> None:
    picture = torch.rand(1, 1, height, width, generator=torch.Generator().manual_seed(0))
    found = resized(picture, side)[0, 0]
    for i in range(side):
        for j in range(side):
            y, x = i * height / side, j * width / side
            top, left = int(y), int(x)
            down, right = min(top + 1, height - 1), min(left + 1, width - 1)
            a, b = y - top, x - left
            expected = (1 - a) * (
                (1 - b) * picture[0, 0, top, left] + b * picture[0, 0, top, right]
            )
            expected += a * ((1 - b) * picture[0, 0, down, left] + b * picture[0, 0, down, right])
            assert float(found[i, j]) == pytest.approx(float(expected), abs=1e-6)


def test_pictures_are_made_square_with_black() -> None:
    tall = torch.ones(1, 3, 5, 2)
    assert squared(tall, centred=False)[0, 0, 0].tolist() == [1, 1, 0, 0, 0]
    assert squared(tall, centred=True)[0, 0, 0].tolist() == [0, 1, 1, 0, 0]
    wide = squared(tall.transpose(2, 3), centred=True)[0, 0]
    assert wide[:, 0].tolist() == [0, 1, 1, 0, 0]


# Alignment.


def turned(points: Tensor, degrees: float, scale: float, shift: tuple[float, float]) -> Tensor:
    angle = math.radians(degrees)
    matrix = scale * torch.tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]],
        dtype=torch.float64,
    )
    return points @ matrix.T + torch.tensor(shift, dtype=torch.float64)


def test_similarity_finds_turn_scale_and_shift() -> None:
    points = torch.rand(9, 2, generator=torch.Generator().manual_seed(0)).double()
    matrix, shift = similarity(points, turned(points, 25, 3.0, (7, -2)))
    assert torch.allclose(points @ matrix.T + shift, turned(points, 25, 3.0, (7, -2)))
    # What only a mirror would explain is approached by turns alone.
    matrix, _ = similarity(points, points * torch.tensor([-1.0, 1.0]))
    assert float(torch.linalg.det(matrix)) > 0


@pytest.mark.parametrize(("degrees", "scale"), [(0, 1.0), (20, 0.7), (-35, 1.6)])
def test_an_aligned_face_is_upright_and_of_one_size(degrees: float, scale: float) -> None:
    """A ramp of grey that lies under the points comes out as the ramp of an upright face."""
    face = mean_face(SIDE)
    points = torch.zeros(68, 2, dtype=torch.float64)
    points[17:] = turned(face, degrees, scale, (150, 120))
    there = torch.stack(
        torch.meshgrid(torch.arange(480.0), torch.arange(480.0), indexing="xy"), -1
    ).double()
    back = turned(there - torch.tensor([150.0, 120.0]), -degrees, 1 / scale, (0, 0))
    chip = aligned((back[..., 0])[None].float(), points, SIDE)[0]
    column = int(face[STEADY[0] - 17][0])  # within the picture, whatever the turn
    rows = slice(50, 100)
    assert chip[rows, column].tolist() == pytest.approx([column] * 50, abs=0.6)
    assert chip[rows, column + 20].tolist() == pytest.approx([column + 20] * 50, abs=0.6)


# The networks, with random weights.


def test_shapes_with_random_weights(random_faces: Faces) -> None:
    two = planes(pictures(2, 48))
    boxes, scores = random_faces.detector.raw(two)
    assert boxes.shape == (2, 5118, 4) and scores.shape == (2, 5118)
    assert random_faces.landmarks.raw(resized(two, 112)).shape == (2, 68, 2)
    found = random_faces.descriptor(resized(two, 150))
    assert found.shape == (2, 128) and found.isfinite().all()
    assert not torch.allclose(found[0], found[1])


def test_a_picture_alone_and_among_others_is_described_alike(random_faces: Faces) -> None:
    three = pictures(3, 64)
    box = Box(5.5, 7.2, 50.1, 60.9, 1.0)
    one = random_faces.describe(three[1], box)
    assert one.shape == (128,)
    chips = torch.stack(
        [
            aligned(planes(three)[i], random_faces.landmarks(planes(three)[i], box), SIDE)
            for i in range(3)
        ]
    )
    assert torch.allclose(random_faces.descriptor(chips)[1], one, rtol=1e-4, atol=1e-5)


def test_boxes_are_pixels_of_the_picture_and_overlaps_are_dropped(
    random_faces: Faces, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The picture is 40 x 80: what was made square is 80 x 80."""
    found = torch.tensor(
        [[0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.41], [0.3, 0.5, 0.6, 0.9], [0, 0, 1, 1]]
    )
    scores = torch.tensor([0.8, 0.9, 0.7, 0.49])
    monkeypatch.setattr(random_faces.detector, "raw", lambda part: (found[None], scores[None]))
    first, second = random_faces.detector(torch.zeros(1, 3, 40, 80))[0]
    assert (first.left, first.top, first.right, first.bottom) == pytest.approx((16, 8, 32.8, 24))
    assert first.score == pytest.approx(0.9)
    assert second.bottom == 40  # below, there is only the black that made it square
    (largest,) = random_faces.boxes(torch.zeros(1, 40, 80, 3, dtype=torch.uint8))
    assert largest == second


# The real weights, on real portraits, against face-api itself.


@pytest.mark.extras
@needs_weights
@pytest.mark.parametrize("name", ["astronaut", "grace_hopper"])
def test_numbers_are_those_of_face_api(name: str, real_faces: Faces) -> None:
    (expected,) = NUMBERS[name]
    picture = as_tensor(photograph(name))
    (box,) = real_faces.detector(planes(picture))[0]
    found = [box.left, box.top, box.right, box.bottom]
    assert box.score == pytest.approx(expected["score"], abs=1e-3)
    assert found == pytest.approx(expected["box"], abs=0.1)
    # face-api puts the points where the box begins, and here they lie where its pixels do.
    points = real_faces.landmarks(planes(picture)[0], box)
    moved = torch.tensor(found[:2]) - torch.tensor(found[:2]).floor()
    assert torch.allclose(points + moved, torch.tensor(expected["landmarks"]), atol=0.05)
    # Its crop stands upright whatever the face does, so only the network is the same.
    left, top, side = (int(number) for number in expected["crop"])
    crop = planes(picture[:, top : top + side, left : left + side])
    described = real_faces.descriptor(resized(squared(crop, centred=True), SIDE))[0]
    assert torch.allclose(described, torch.tensor(expected["descriptor"]), atol=1e-3)


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "mirrored": ImageOps.mirror,
    "darker": lambda picture: ImageEnhance.Brightness(picture).enhance(0.6),
    "smaller": lambda picture: picture.resize((picture.width // 2, picture.height // 2)),
    "cropped": lambda picture: picture.crop((60, 0, picture.width - 60, picture.height - 150)),
    "turned": lambda picture: picture.rotate(20, Image.Resampling.BICUBIC),
}


@pytest.mark.extras
@needs_weights
def test_one_person_is_near_and_another_far(real_faces: Faces) -> None:
    def described(picture: Image.Image) -> Tensor:
        (found,) = real_faces.descriptors(as_tensor(picture))
        assert found is not None
        return found

    people = {name: photograph(name) for name in ("astronaut", "grace_hopper")}
    plain = {name: described(picture) for name, picture in people.items()}
    for name, picture in people.items():
        other = next(plain[one] for one in plain if one != name)
        for change, changed in CHANGES.items():
            found = described(changed(picture))
            assert float(distance(found, plain[name])) <= 0.45, (name, change)
            assert float(distance(found, other)) >= SAME_PERSON, (name, change)


@pytest.mark.extras
@needs_weights
def test_a_cup_of_coffee_has_no_face(real_faces: Faces) -> None:
    assert NUMBERS["coffee"] == []
    assert real_faces.boxes(as_tensor(photograph("coffee"))) == [None]
