"""Detector, landmarks and descriptor of face-api, from its folder `model`.

The weights come with the npm package @vladmandic/face-api (MIT license); they are read here, and
nothing of the package is run.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from apdm_cli.digests import file_digest
from apdm_cli.errors import ApdmError
from apdm_cli.extension.metric import Backend, MetricUnavailable
from apdm_metrics.faces.alignment import aligned
from apdm_metrics.faces.descriptor import SIDE, Descriptor, distance
from apdm_metrics.faces.detector import Box, Detector
from apdm_metrics.faces.landmarks import Landmarks
from apdm_metrics.faces.weights import read_weights, shards

NAME = "face-api"
MODELS = ("ssd_mobilenetv1_model", "face_landmark_68_model", "face_recognition_model")
GET_THEM = (
    "fetch face-api's (13 MB, MIT license) with `npm pack @vladmandic/face-api`, unpack the file, "
    "and give its folder with --weights identity=package/model; or give the folder of one of "
    "insightface's model packs, such as buffalo_l"
)


@dataclass(frozen=True)
class Faces:
    """Finds and describes faces.

    Attributes:
        backend: name, and digest of the weights.
        same_person: see `Identity`.
    """

    backend: Backend
    detector: Detector
    landmarks: Landmarks
    descriptor: Descriptor
    device: torch.device

    def boxes(self, pictures: Tensor) -> list[Box | None]:
        """The largest face in each of the pictures, uint8 (N, H, W, 3); None without any."""
        found = self.detector(self._ready(pictures))
        return [max(boxes, key=lambda box: box.area, default=None) for boxes in found]

    def descriptors(self, pictures: Tensor) -> list[Tensor | None]:
        """128 numbers (float32, on the CPU) of each picture's largest face; None without any."""
        found = []
        for picture, box in zip(pictures, self.boxes(pictures), strict=True):
            found.append(None if box is None else self.describe(picture, box))
        return found

    def likeness(self, found: Tensor, known: Tensor) -> Tensor:
        """1 − the distances (M,) of descriptors (M, D) to the mean of those `known` (K, D)."""
        return 1 - distance(found, known.mean(0))

    def describe(self, picture: Tensor, box: Box) -> Tensor:
        """128 numbers (float32, on the CPU) of the face in `box` of uint8 (H, W, 3)."""
        ready = self._ready(picture[None])[0]
        with torch.no_grad():
            chip = aligned(ready, self.landmarks(ready, box), SIDE)
            return self.descriptor(chip[None])[0].cpu()

    def _ready(self, pictures: Tensor) -> Tensor:
        return pictures.permute(0, 3, 1, 2).to(self.device, torch.float32)


@lru_cache(maxsize=1)
def load_faces(folder: Path, device: torch.device) -> Faces:
    """From face-api's folder `model`, or one that has it; MetricUnavailable where it is not."""
    places = (folder, folder / "model", folder / "package" / "model")
    for place in places:
        manifests = [place / f"{model}-weights_manifest.json" for model in MODELS]
        if all(manifest.is_file() for manifest in manifests):
            break
    else:
        lacks = f"{MODELS[0]}-weights_manifest.json"
        raise MetricUnavailable(f"{folder} is not face-api's folder (no {lacks}); {GET_THEM}")
    try:
        weights = [read_weights(manifest) for manifest in manifests]
        digest = file_digest([file for one in manifests for file in (one, *shards(one))])
    except ApdmError as error:
        raise MetricUnavailable(f"{error}; {GET_THEM}") from error
    there = [{name: one.to(device) for name, one in part.items()} for part in weights]
    return Faces(
        Backend(NAME, digest),
        Detector(there[0]),
        Landmarks(there[1]),
        Descriptor(there[2]),
        device,
    )
