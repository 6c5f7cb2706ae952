"""Aligned faces, as dlib's `get_face_chip_details` and `extract_image_chip` make them.

The 68 points are laid over those of a mean face by the similarity (turn, scale and shift) that
brings them closest (Umeyama 1991), and the picture with them.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

PADDING = 0.25  # of the mean face's width, on every side: what dlib's recognizer was trained with
# Where dlib's mean face has the points 17 to 67, x and then y.
MEAN_FACE = (
    (
        0.000213256, 0.0752622, 0.18113, 0.29077, 0.393397, 0.586856, 0.689483, 0.799124,
        0.904991, 0.98004, 0.490127, 0.490127, 0.490127, 0.490127, 0.36688, 0.426036, 0.490127,
        0.554217, 0.613373, 0.121737, 0.187122, 0.265825, 0.334606, 0.260918, 0.182743, 0.645647,
        0.714428, 0.793132, 0.858516, 0.79751, 0.719335, 0.254149, 0.340985, 0.428858, 0.490127,
        0.551395, 0.639268, 0.726104, 0.642159, 0.556721, 0.490127, 0.423532, 0.338094, 0.290379,
        0.428096, 0.490127, 0.552157, 0.689874, 0.553364, 0.490127, 0.42689,
    ),
    (
        0.106454, 0.038915, 0.0187482, 0.0344891, 0.0773906, 0.0773906, 0.0344891, 0.0187482,
        0.038915, 0.106454, 0.203352, 0.307009, 0.409805, 0.515625, 0.587326, 0.609345, 0.628106,
        0.609345, 0.587326, 0.216423, 0.178758, 0.179852, 0.231733, 0.245099, 0.244077, 0.231733,
        0.179852, 0.178758, 0.216423, 0.244077, 0.245099, 0.780233, 0.745405, 0.727388, 0.742578,
        0.727388, 0.745405, 0.780233, 0.864805, 0.902192, 0.909281, 0.902192, 0.864805, 0.784792,
        0.778746, 0.785343, 0.778746, 0.784792, 0.824182, 0.831803, 0.824182,
    ),
)  # fmt: skip
# Nose, eyes and upper lip: dlib leaves out the outline, the eyebrows and the lower lip, which move.
STEADY = [*range(27, 55), *range(60, 65)]


def aligned(picture: Tensor, points: Tensor, side: int) -> Tensor:
    """The face (3, side, side) of a picture (3, H, W); black where the picture ends.

    Args:
        points: (68, 2), x and y in pixels of the picture.
    """
    matrix, shift = similarity(mean_face(side)[[i - 17 for i in STEADY]], points[STEADY])
    scale = float(torch.linalg.det(matrix)) ** 0.5  # pixels of the picture to one of the face
    height, width = picture.shape[1:]
    source = picture[None]
    if scale > 1:  # smooth first what becomes smaller
        smaller = [max(1, math.ceil(size / scale)) for size in (height, width)]
        source = F.interpolate(source, smaller, mode="bilinear", antialias=True)
    return _sampled(source, matrix, shift, side, (height, width))


def sampled(picture: Tensor, matrix: Tensor, shift: Tensor, side: int) -> Tensor:
    """(3, side, side), whose pixel p is `matrix` p + `shift` of a picture (3, H, W).

    Between pixels it is bilinear, without smoothing, and black where the picture ends.
    """
    return _sampled(picture[None], matrix, shift, side, (picture.shape[1], picture.shape[2]))


def _sampled(
    source: Tensor, matrix: Tensor, shift: Tensor, side: int, size: tuple[int, int]
) -> Tensor:
    """`size` is that of the picture, in whose pixels `matrix` counts; `source` may be smaller."""
    height, width = size
    at = torch.arange(side, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(at, at, indexing="xy"), -1) @ matrix.T + shift
    # The middle of the first pixel is 0 here, and 1 / size - 1 for grid_sample.
    grid = (grid + 0.5) / torch.tensor([width, height]) * 2 - 1
    grid = grid[None].to(source)
    return F.grid_sample(source, grid, mode="bilinear", align_corners=False)[0]


def mean_face(side: int) -> Tensor:
    """Points 17 to 67 of the mean face (51, 2), in a square of `side` pixels."""
    relative = torch.tensor(MEAN_FACE, dtype=torch.float64).T
    return (relative + PADDING) / (2 * PADDING + 1) * side


def similarity(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """A (2, 2) and b (2,) with the smallest Σ‖A x + b − y‖², A a turn times a scale.

    Umeyama, "Least-squares estimation of transformation parameters between two point patterns",
    PAMI 1991, equations 40 to 42.

    Args:
        source, target: points x and y, (K, 2), K > 1, not all the same.
    """
    x, y = source.double(), target.double()
    mean_x, mean_y = x.mean(0), y.mean(0)
    x, y = x - mean_x, y - mean_y
    u, d, vt = torch.linalg.svd(y.T @ x / len(x))
    sign = torch.ones(2, dtype=torch.float64)
    if torch.linalg.det(u) * torch.linalg.det(vt) < 0:  # no mirrors
        sign[1] = -1
    scale = (d * sign).sum() / x.square().sum(1).mean()
    matrix = scale * u @ torch.diag(sign) @ vt
    return matrix, mean_y - matrix @ mean_x
