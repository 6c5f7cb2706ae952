"""A folder like face-api's `model`: the real architecture and format, with random weights."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from apdm_metrics.faces.descriptor import BLOCKS

Shapes = Iterable[tuple[str, tuple[int, ...]]]
MOBILENET = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
PREDICTION = ((256, 1), (512, 3), (128, 1), (256, 3), (128, 1), (256, 3), (64, 1), (128, 3))
MAPS = ((512, 3), (1024, 6), (512, 6), (256, 6), (256, 6), (128, 6))  # channels, boxes at a place


def detector() -> Shapes:
    yield "MobilenetV1/Conv2d_0_pointwise/weights", (3, 3, 3, 32)
    yield "MobilenetV1/Conv2d_0_pointwise/convolution_bn_offset", (32,)
    for layer in range(1, 14):
        before, after = MOBILENET[layer - 1 : layer + 1]
        name = f"MobilenetV1/Conv2d_{layer}_depthwise"
        yield f"{name}/depthwise_weights", (3, 3, before, 1)
        for part in ("gamma", "beta", "moving_mean", "moving_variance"):
            yield f"{name}/BatchNorm/{part}", (before,)
        yield f"MobilenetV1/Conv2d_{layer}_pointwise/weights", (1, 1, before, after)
        yield f"MobilenetV1/Conv2d_{layer}_pointwise/convolution_bn_offset", (after,)
    before = MOBILENET[-1]
    for layer, (after, kernel) in enumerate(PREDICTION):
        yield f"Prediction/Conv2d_{layer}_pointwise/weights", (kernel, kernel, before, after)
        yield f"Prediction/Conv2d_{layer}_pointwise/convolution_bn_offset", (after,)
        before = after
    for at, (channels, boxes) in enumerate(MAPS):
        for what, width in (("BoxEncodingPredictor", 4), ("ClassPredictor", 3)):
            name = f"Prediction/BoxPredictor_{at}/{what}"
            yield f"{name}/weights", (1, 1, channels, boxes * width)
            yield f"{name}/biases", (boxes * width,)
    yield "Output/extra_dim", (1, 5118, 4)


def landmarks() -> Shapes:
    before = 3
    for block, after in enumerate((32, 64, 128, 256)):
        for layer in range(4):
            name = f"dense{block}/conv{layer}"
            if block == layer == 0:
                yield f"{name}/filters", (3, 3, before, after)
            else:
                yield f"{name}/depthwise_filter", (3, 3, before, 1)
                yield f"{name}/pointwise_filter", (1, 1, before, after)
            yield f"{name}/bias", (after,)
            before = after
    yield "fc/weights", (256, 136)
    yield "fc/bias", (136,)


def descriptor() -> Shapes:
    yield from _scaled("conv32_down", 7, 3, 32)
    before = 32
    for name in BLOCKS:
        after = int(name.removeprefix("conv").split("_")[0])
        yield from _scaled(f"{name}/conv1", 3, before, after)
        yield from _scaled(f"{name}/conv2", 3, after, after)
        before = after
    yield "fc", (256, 128)


def _scaled(name: str, kernel: int, before: int, after: int) -> Shapes:
    yield f"{name}/conv/filters", (kernel, kernel, before, after)
    yield f"{name}/conv/bias", (after,)
    yield f"{name}/scale/weights", (after,)
    yield f"{name}/scale/biases", (after,)


def make_face_api(folder: Path) -> Path:
    """A folder with the three models; the same call writes the same bytes."""
    draws = np.random.default_rng(0)
    models = {
        "ssd_mobilenetv1_model": detector(),
        "face_landmark_68_model": landmarks(),
        "face_recognition_model": descriptor(),
    }
    for model, shapes in models.items():
        entries, data = [], b""
        for name, shape in shapes:
            count = math.prod(shape)
            entry: dict[str, Any] = {"name": name, "shape": list(shape), "dtype": "float32"}
            if name == "Output/extra_dim":  # not quantized in the original either
                data += draws.random(count, dtype=np.float32).tobytes()
            else:
                # What passes keeps its size: scales about 1/2, everything else about 0.
                positive = name.endswith(("gamma", "variance", "scale/weights"))
                reach = (12 / math.prod(shape[:-1])) ** 0.5 if len(shape) > 1 else 0.5
                low = 0.25 if positive else -reach / 2
                entry["quantization"] = {"dtype": "uint8", "scale": reach / 255, "min": low}
                data += draws.integers(0, 256, count, dtype=np.uint8).tobytes()
            entries.append(entry)
        (folder / f"{model}.bin").write_bytes(data)
        manifest = [{"paths": [f"{model}.bin"], "weights": entries}]
        (folder / f"{model}-weights_manifest.json").write_text(json.dumps(manifest))
    return folder
