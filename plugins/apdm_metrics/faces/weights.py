"""Reads weights in TensorFlow.js' own format: a manifest, and shards of raw bytes beside it.

A manifest is a list of groups. Each names its shards, which are one sequence of bytes, and the
tensors that lie in it one after the other. Numbers quantized to integers q are `q * scale + min`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from apdm_cli.errors import ApdmError

TYPES = {"float32": np.float32, "int32": np.int32, "uint8": np.uint8, "uint16": np.uint16}


def read_weights(manifest: Path) -> dict[str, Tensor]:
    """Every tensor by its name, in the layout of PyTorch.

    Convolutions are turned from (height, width, in, out) to (out, in, height, width). Depthwise
    ones, (height, width, channels, 1), become (channels, 1, height, width) by the name they have.

    Raises:
        ApdmError: the manifest cannot be read, or its shards are missing, too short or too long.
    """
    try:
        groups = json.loads(manifest.read_text(encoding="utf-8"))
        found: dict[str, Tensor] = {}
        for group in groups:
            data = b"".join((manifest.parent / path).read_bytes() for path in group["paths"])
            found |= _unpack(group["weights"], data)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ApdmError(f"{manifest} holds no readable weights: {error}") from error
    return found


def shards(manifest: Path) -> list[Path]:
    """The files of bytes that the manifest names."""
    groups = json.loads(manifest.read_text(encoding="utf-8"))
    return [manifest.parent / path for group in groups for path in group["paths"]]


def _unpack(entries: list[dict[str, Any]], data: bytes) -> dict[str, Tensor]:
    found, at = {}, 0
    for entry in entries:
        quantized = entry.get("quantization")
        stored = np.dtype(TYPES[(quantized or entry)["dtype"]])
        count = math.prod(entry["shape"])
        if at + count * stored.itemsize > len(data):
            raise ValueError(f"the bytes end within {entry['name']}")
        numbers = np.frombuffer(data, stored.newbyteorder("<"), count, at)
        at += count * stored.itemsize
        if quantized:  # in double precision, as JavaScript has no other
            numbers = numbers.astype(np.float64) * quantized["scale"] + quantized["min"]
        tensor = torch.from_numpy(numbers.astype(TYPES[entry["dtype"]])).reshape(entry["shape"])
        found[entry["name"]] = _turned(entry["name"], tensor)
    if at != len(data):
        raise ValueError(f"{len(data) - at} bytes are left over")
    return found


def _turned(name: str, tensor: Tensor) -> Tensor:
    if tensor.ndim != 4:
        return tensor
    order = (
        (2, 3, 0, 1) if name.endswith(("depthwise_filter", "depthwise_weights")) else (3, 2, 0, 1)
    )
    return tensor.permute(order).contiguous()
