"""Where the face is in a photo that is no square, so that the square can be put around it.

The detector is the cascade for frontal faces that comes with scikit-image (and before with OpenCV):
local binary patterns in boosted stages, after Viola and Jones (CVPR 2001) and Liao et al. (ICB
2007). It is small, needs no download, and finds a face that looks at the camera; a profile it does
not see.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
from PIL import Image

from apdm_cli.errors import ApdmError

SIDE = 320  # the shorter side of what is searched, in pixels
SMALLEST = SIDE // 8  # a face; what is smaller is seldom the subject, and often no face
SCALE = 1.2  # from one size that is searched for to the next
RIVAL = 0.5  # of the largest face's width: from here another one may be whom the photo is about


@dataclass(frozen=True)
class Place:
    """Where a photo's largest square lies along its longer side.

    at: 0 at the left or top, 0.5 in the middle, 1 at the right or bottom. faces: how many were
    found that may be the subject's. all_inside: whether the square shows the middle of each.
    """

    at: float
    faces: int
    all_inside: bool = True


def require_detector() -> None:
    """ApdmError where faces cannot be looked for; imports nothing heavy."""
    if find_spec("skimage") is None:
        raise ApdmError(
            "--crop face needs the package scikit-image, which is not installed",
            "Install the extra: pip install 'apdm[faces]'. Or crop the photos to the subject "
            "yourself.",
        )


def place_of_face(picture: Image.Image) -> Place:
    """The square of `picture` whose middle is as near as it can be to that of the largest face.

    Returns the one in the middle (at 0.5, faces 0) where no face is found. ApdmError without the
    detector.
    """
    require_detector()
    width, height = picture.size
    scale = SIDE / min(width, height)
    size = (max(SIDE, round(width * scale)), max(SIDE, round(height * scale)))
    small = picture.convert("RGB").resize(size, Image.Resampling.BILINEAR)
    found = _detector().detect_multi_scale(
        np.asarray(small),
        scale_factor=SCALE,
        step_ratio=1,
        min_size=(SMALLEST, SMALLEST),
        max_size=(SIDE, SIDE),
    )
    if not found:
        return Place(0.5, 0)
    boxes = sorted((-face["width"], face["c"], face["r"]) for face in found)
    rivals = _apart([(x, y, -width) for width, x, y in boxes if -width >= RIVAL * -boxes[0][0]])
    along = 0 if size[0] >= size[1] else 1
    middles = [box[along] + box[2] / 2 for box in rivals]
    room = max(size) - SIDE
    start = min(max(middles[0] - SIDE / 2, 0), room)
    inside = all(start <= middle <= start + SIDE for middle in middles)
    return Place(round(start / room, 4) if room else 0.5, len(rivals), inside)


def _apart(boxes: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Squares (left, top, side), the largest first, without those that are a face once more."""
    kept: list[tuple[int, int, int]] = []
    for left, top, side in boxes:
        x, y = left + side / 2, top + side / 2
        if not any(a <= x <= a + size and b <= y <= b + size for a, b, size in kept):
            kept.append((left, top, side))
    return kept


@cache
def _detector() -> Any:
    from skimage.data import lbp_frontal_face_cascade_filename
    from skimage.feature import Cascade

    return Cascade(lbp_frontal_face_cascade_filename())
