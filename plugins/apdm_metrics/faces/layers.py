"""What TensorFlow does otherwise than PyTorch: its padding, and its way of resizing."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = Mapping[str, Tensor]
# Of the pictures that dlib's networks were trained on.
MEAN_RGB = (122.782, 117.001, 104.298)


def same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Pad (N, C, H, W) as TensorFlow's "same" does: what is odd goes to the right and below."""
    amounts = []
    for size in (x.shape[3], x.shape[2]):
        whole = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        amounts += [whole // 2, whole - whole // 2]
    return F.pad(x, amounts)


def convolve(x: Tensor, filters: Tensor, bias: Tensor | None = None, stride: int = 1) -> Tensor:
    """A convolution with TensorFlow's "same" padding; depthwise where filters are (C, 1, k, k)."""
    depthwise = filters.shape[1] == 1 and x.shape[1] > 1
    padded = same(x, filters.shape[-1], stride)
    return F.conv2d(padded, filters, bias, stride, groups=len(filters) if depthwise else 1)


def separable(x: Tensor, weights: Weights, name: str, stride: int = 1) -> Tensor:
    """A depthwise convolution, and a pointwise one after it."""
    deep = convolve(x, weights[f"{name}/depthwise_filter"], stride=stride)
    return convolve(deep, weights[f"{name}/pointwise_filter"], weights[f"{name}/bias"])


def normalized(pictures: Tensor) -> Tensor:
    """Pictures (N, 3, H, W) in [0, 255] as dlib's networks take them."""
    return (pictures - pictures.new_tensor(MEAN_RGB)[:, None, None]) / 255


def resized(pictures: Tensor, side: int) -> Tensor:
    """(N, C, H, W) to (N, C, side, side), bilinear as in TensorFlow 1.

    Pixel i of the result is taken at i * H / side: there are no half pixels, and nothing is
    smoothed before it is made smaller.
    """
    for axis in (2, 3):
        size = pictures.shape[axis]
        at = torch.arange(side, device=pictures.device) * (size / side)
        low = at.floor().long().clamp(max=size - 1)
        high = (low + 1).clamp(max=size - 1)
        share = (at - low).to(pictures).reshape([-1, 1] if axis == 2 else [-1])
        first, second = pictures.index_select(axis, low), pictures.index_select(axis, high)
        pictures = first + (second - first) * share
    return pictures


def squared(picture: Tensor, *, centred: bool) -> Tensor:
    """(N, C, H, W) with black beside or below (or around, if `centred`) so that H = W."""
    height, width = picture.shape[2:]
    whole = abs(height - width)
    after = (whole + 1) // 2 if centred else whole
    amounts = [whole - after, after]
    return F.pad(picture, amounts if width < height else [0, 0, *amounts])
