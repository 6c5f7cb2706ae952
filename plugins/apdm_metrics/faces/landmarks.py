"""68 points of a face, in the order of iBUG 300-W: face-api's `face_landmark_68_model`."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from apdm_metrics.faces.detector import Box
from apdm_metrics.faces.layers import Weights, convolve, normalized, resized, separable, squared

SIDE = 112
POINTS = 68


class Landmarks:
    """Finds the points of a face whose box is known."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    def __call__(self, picture: Tensor, box: Box) -> Tensor:
        """Points (68, 2), x and y in pixels of the picture (3, H, W) in [0, 255]."""
        left, top = math.floor(box.left), math.floor(box.top)
        # At least one pixel: a box may be thinner than that.
        right = max(left + math.floor(box.right - box.left), left + 1)
        bottom = max(top + math.floor(box.bottom - box.top), top + 1)
        face = picture[None, :, top:bottom, left:right]
        height, width = face.shape[2:]
        whole = max(height, width)
        margin = torch.tensor([(whole - width) / 2, (whole - height) / 2])
        relative = self.raw(resized(squared(face, centred=True), SIDE))[0].cpu()
        return relative * whole - margin + torch.tensor([left, top])

    def raw(self, faces: Tensor) -> Tensor:
        """Points (N, 68, 2) in [0, 1] of square faces (N, 3, 112, 112) in [0, 255]."""
        x = normalized(faces)
        for block in range(4):
            x = self._dense(x, f"dense{block}")
        x = F.avg_pool2d(x, 7, 2).flatten(1)
        weights, bias = self.weights["fc/weights"], self.weights["fc/bias"]
        return (x @ weights + bias).unflatten(-1, (POINTS, 2))

    def _dense(self, x: Tensor, name: str) -> Tensor:
        """Each of four convolutions sees the sum of what came before it."""
        if f"{name}/conv0/filters" in self.weights:
            filters, bias = (self.weights[f"{name}/conv0/{part}"] for part in ("filters", "bias"))
            total = convolve(x, filters, bias, 2).relu()
        else:
            total = separable(x, self.weights, f"{name}/conv0", 2).relu()
        sums = total
        for layer in (1, 2, 3):
            sums = sums + separable(sums.relu(), self.weights, f"{name}/conv{layer}")
        return sums.relu()
