"""Where faces are: a single-shot detector (Liu et al. 2016) on a MobileNet (Howard et al. 2017).

Its weights are face-api's, `ssd_mobilenetv1_model`, trained on WIDER FACE.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import nms

from apdm_metrics.faces.layers import Weights, convolve, resized, squared

SIDE = 512
CONFIDENCE = 0.5  # below, a box is no face: face-api's own threshold
MOST = 100  # faces of a picture, the surest ones
OVERLAP = 0.5  # of two boxes that overlap by more (IoU), the better one stays
BATCH_NORM_EPSILON = 0.0010000000474974513
HALVED = {2, 4, 6, 12}  # layers of the MobileNet with stride 2
BATCH = 8


@dataclass(frozen=True)
class Box:
    """A face: corners in pixels of the picture, and how sure the detector is, in [0, 1]."""

    left: float
    top: float
    right: float
    bottom: float
    score: float

    @property
    def area(self) -> float:
        """In pixels."""
        return (self.right - self.left) * (self.bottom - self.top)


class Detector:
    """Finds the faces in pictures."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    def __call__(self, pictures: Tensor) -> list[list[Box]]:
        """The faces in each of the pictures (N, 3, H, W) in [0, 255], the surest first."""
        return [
            self._boxes(*found, pictures.shape[2], pictures.shape[3])
            for part in pictures.split(BATCH)
            for found in zip(*self.raw(part), strict=True)
        ]

    def raw(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (N, 5118, 4) as top, left, bottom, right in [0, 1], and scores (N, 5118).

        Both are of the picture made square.
        """
        x = resized(squared(pictures, centred=False), SIDE) / 127.5 - 1
        early, late = self._mobilenet(x)
        maps = [early, late]
        for block in range(4):
            narrow = self._prediction(maps[-1], 2 * block, 1)
            maps.append(self._prediction(narrow, 2 * block + 1, 2))
        offsets = torch.cat(
            [self._predict(at, i, "BoxEncodingPredictor", 4) for i, at in enumerate(maps)], 1
        )
        classes = torch.cat(
            [self._predict(at, i, "ClassPredictor", 3) for i, at in enumerate(maps)], 1
        )
        return self._decoded(offsets), classes[..., 1].sigmoid()

    def _mobilenet(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The features after layers 11 and 13."""
        x = self._pointwise(x, "MobilenetV1/Conv2d_0_pointwise", 2)
        early = x
        for layer in range(1, 14):
            x = self._depthwise(
                x, f"MobilenetV1/Conv2d_{layer}_depthwise", 2 if layer in HALVED else 1
            )
            x = self._pointwise(x, f"MobilenetV1/Conv2d_{layer}_pointwise", 1)
            if layer == 11:
                early = x
        return early, x

    def _depthwise(self, x: Tensor, name: str, stride: int) -> Tensor:
        mean, variance, scale, shift = (
            self.weights[f"{name}/BatchNorm/{part}"]
            for part in ("moving_mean", "moving_variance", "gamma", "beta")
        )
        x = convolve(x, self.weights[f"{name}/depthwise_weights"], stride=stride)
        x = F.batch_norm(x, mean, variance, scale, shift, eps=BATCH_NORM_EPSILON)
        return x.clamp(0, 6)

    def _pointwise(self, x: Tensor, name: str, stride: int) -> Tensor:
        bias = self.weights[f"{name}/convolution_bn_offset"]
        return convolve(x, self.weights[f"{name}/weights"], bias, stride).clamp(0, 6)

    def _prediction(self, x: Tensor, layer: int, stride: int) -> Tensor:
        return self._pointwise(x, f"Prediction/Conv2d_{layer}_pointwise", stride)

    def _predict(self, x: Tensor, scale: int, what: str, width: int) -> Tensor:
        """(N, anchors, width): everything at one place is together, as TensorFlow has it."""
        name = f"Prediction/BoxPredictor_{scale}/{what}"
        found = convolve(x, self.weights[f"{name}/weights"], self.weights[f"{name}/biases"])
        return found.permute(0, 2, 3, 1).reshape(len(x), -1, width)

    def _decoded(self, offsets: Tensor) -> Tensor:
        """Offsets (N, A, 4) to boxes, relative to the anchors, as in Faster R-CNN."""
        anchors = self.weights["Output/extra_dim"]
        sizes = anchors[..., 2:] - anchors[..., :2]
        middles = anchors[..., :2] + sizes / 2 + offsets[..., :2] / 10 * sizes
        halves = (offsets[..., 2:] / 5).exp() * sizes / 2
        return torch.cat([middles - halves, middles + halves], -1)

    @staticmethod
    def _boxes(boxes: Tensor, scores: Tensor, height: int, width: int) -> list[Box]:
        sure = scores > CONFIDENCE
        boxes, scores = boxes[sure], scores[sure]
        # torchvision wants x before y; the overlap is the same.
        kept = nms(boxes[:, [1, 0, 3, 2]], scores, OVERLAP)
        kept = kept[:MOST]
        corners = (boxes[kept].clamp(0, 1) * max(height, width)).tolist()
        found = []
        for (top, left, bottom, right), score in zip(corners, scores[kept].tolist(), strict=True):
            box = Box(left, top, min(right, width), min(bottom, height), score)
            if box.right > box.left and box.bottom > box.top:
                found.append(box)
        return found
