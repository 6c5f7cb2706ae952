"""Detector and recognizer of insightface, from the folder of one of its model packs.

SCRFD (Guo et al., arXiv 2105.04714) finds faces and five points of each, and ArcFace (Deng et al.,
arXiv 1801.07698) describes them. The packs (buffalo_l, buffalo_s, antelopev2 and others) are ONNX
files, which the package onnxruntime computes on the processor; the package insightface itself is
not needed. What is done with them is as there: `SCRFD.detect`, `face_align.norm_crop` and
`ArcFaceONNX.get_feat`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import nms

from apdm_cli.digests import file_digest
from apdm_cli.extension.metric import Backend, MetricUnavailable
from apdm_metrics.faces.alignment import sampled, similarity
from apdm_metrics.faces.detector import Box
from apdm_metrics.lookup import first_line

NAME = "insightface"
INSTALL = "install it with pip install 'apdm[insightface]'"
SIDE = 640  # of what is searched
STRIDES = (8, 16, 32)
ANCHORS = 2  # at every place
CONFIDENCE = 0.5  # below, a box is no face
OVERLAP = 0.4  # of two boxes that overlap by more (IoU), the better one stays
FACE = 112  # side of an aligned face
# Where its eyes, nose and corners of the mouth are.
POINTS = (
    (38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655),
    (70.7299, 92.2041),
)  # fmt: skip


@dataclass(frozen=True)
class Found:
    """A face, and x and y of its five points (5, 2), in pixels of the picture."""

    box: Box
    points: Tensor


@dataclass(frozen=True)
class PackFaces:
    """Finds and describes faces.

    Attributes:
        backend: name, and digest of both files.
        detector, recognizer: onnxruntime's sessions.
    """

    backend: Backend
    detector: Any
    recognizer: Any

    def boxes(self, pictures: Tensor) -> list[Box | None]:
        """The largest face in each of the pictures, uint8 (N, H, W, 3); None without any."""
        return [None if face is None else face.box for face in map(self._largest, pictures)]

    def descriptors(self, pictures: Tensor) -> list[Tensor | None]:
        """512 numbers (float32) of each picture's largest face; None without any."""
        found = []
        for picture in pictures:
            face = self._largest(picture)
            found.append(None if face is None else self.describe(picture, face.points))
        return found

    def likeness(self, found: Tensor, known: Tensor) -> Tensor:
        """Cosines (M,) of descriptors (M, D) with the mean of those that are `known` (K, D)."""
        return F.cosine_similarity(found.double(), known.double().mean(0, keepdim=True))

    def describe(self, picture: Tensor, points: Tensor) -> Tensor:
        """The descriptor of the face with these five points in uint8 (H, W, 3)."""
        turn, shift = similarity(points, torch.tensor(POINTS))
        back = torch.linalg.inv(turn)
        face = sampled(_ready(picture), back, -back @ shift, FACE).round()
        return _asked(self.recognizer, (face - 127.5) / 127.5)[0].flatten()

    def faces(self, picture: Tensor) -> list[Found]:
        """Every face in uint8 (H, W, 3), the surest first."""
        whole = _ready(picture)
        height, width = whole.shape[1:]
        scale = SIDE / max(height, width)
        size = [max(1, int(height * scale)), max(1, int(width * scale))]
        small = F.interpolate(whole[None], size, mode="bilinear").round()[0]
        searched = torch.zeros(3, SIDE, SIDE)
        searched[:, : size[0], : size[1]] = small
        answers = _asked(self.detector, (searched - 127.5) / 128)
        scores, corners, points = (
            torch.cat([_of_places(answers[first + level]) for level in range(len(STRIDES))])
            for first in (0, 3, 6)
        )
        places, strides = _places()
        # Distances from a place to the sides of a box, and to points, in strides.
        corners = torch.cat(
            [places - strides * corners[:, :2], places + strides * corners[:, 2:]], 1
        )
        points = places[:, None] + strides[:, None] * points.view(-1, 5, 2)
        sure = scores[:, 0] >= CONFIDENCE
        scores, corners, points = scores[sure, 0], corners[sure] / scale, points[sure] / scale
        found = []
        for index in nms(corners, scores, OVERLAP).tolist():
            left, top, right, bottom = corners[index].tolist()
            box = Box(left, top, right, bottom, float(scores[index]))
            found.append(Found(box, points[index]))
        return found

    def _largest(self, picture: Tensor) -> Found | None:
        return max(self.faces(picture), key=lambda face: face.box.area, default=None)


def is_pack(folder: Path) -> bool:
    """Whether the folder holds ONNX files, as insightface's model packs do."""
    return folder.is_dir() and any(folder.glob("*.onnx"))


@lru_cache(maxsize=1)
def load_pack(folder: Path) -> PackFaces:
    """From the folder of a model pack; MetricUnavailable without onnxruntime, or without the files.

    Which file is which is seen by what goes into it and what comes out.
    """
    if find_spec("onnxruntime") is None:
        raise MetricUnavailable(
            f"{folder} holds ONNX files, and the package onnxruntime is missing; {INSTALL}"
        )
    detectors, recognizers = [], []
    for file in sorted(folder.glob("*.onnx")):
        session = _opened(file)
        outputs, shape = session.get_outputs(), session.get_inputs()[0].shape
        if len(outputs) == 3 * len(STRIDES):
            detectors.append((file, session))
        elif len(outputs) == 1 and shape[-2:] == [FACE, FACE]:
            recognizers.append((file, session))
    for found, what in (
        (detectors, "a detector of faces and five points of each (9 outputs)"),
        (recognizers, f"a recognizer of faces ({FACE} by {FACE} pixels)"),
    ):
        if not found:
            raise MetricUnavailable(
                f"none of the ONNX files in {folder} is {what}; give the unpacked folder of a "
                "model pack of insightface, such as buffalo_l"
            )
    (detector, detecting), (recognizer, recognizing) = detectors[0], recognizers[0]
    digest = file_digest([detector, recognizer])
    return PackFaces(Backend(NAME, digest), detecting, recognizing)


def _opened(file: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of onnxruntime's own classes, which have no common base
        raise MetricUnavailable(f"{file} cannot be opened: {first_line(error)}") from error


def _asked(session: Any, picture: Tensor) -> list[Tensor]:
    """What a session answers to one picture (3, H, W)."""
    given = {session.get_inputs()[0].name: picture[None].to(torch.float32).numpy()}
    return [torch.from_numpy(answer) for answer in session.run(None, given)]


def _ready(picture: Tensor) -> Tensor:
    return picture.permute(2, 0, 1).to("cpu", torch.float32)


def _of_places(answer: Tensor) -> Tensor:
    """(places, numbers), whether or not the file counts pictures first."""
    return answer.reshape(-1, answer.shape[-1])


@lru_cache(maxsize=1)
def _places() -> tuple[Tensor, Tensor]:
    """x and y (P, 2) of every place that is asked for a face, and its stride (P, 1)."""
    places, strides = [], []
    for stride in STRIDES:
        at = torch.arange(SIDE // stride) * float(stride)
        grid = torch.stack(torch.meshgrid(at, at, indexing="xy"), -1).reshape(-1, 2)
        places.append(grid.repeat_interleave(ANCHORS, 0))
        strides.append(torch.full((ANCHORS * len(grid), 1), float(stride)))
    return torch.cat(places), torch.cat(strides)
