"""What a photo varies and an identity does not: pose, light, expression, backdrop, clothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pocket_training.renderer.canvas import Colour, Point, lighter, mix, stream, weighted

FABRICS: tuple[Colour, ...] = (
    (196, 62, 64), (222, 136, 62), (226, 192, 88), (92, 152, 96), (66, 140, 150),
    (66, 100, 168), (118, 88, 158), (206, 122, 156), (236, 232, 224), (74, 76, 88),
)  # fmt: skip
BACKDROPS: tuple[Colour, ...] = (
    (168, 204, 224), (188, 216, 190), (238, 214, 168), (232, 188, 176), (206, 190, 222),
    (224, 224, 220), (138, 152, 172), (126, 160, 150), (176, 138, 130), (110, 112, 128),
)  # fmt: skip
CLOTHES = {"crew neck": 4.0, "v-neck": 3.0, "hoodie": 2.0, "band": 2.0}
MOUTHS = {"neutral": 3.0, "smile": 4.0, "open": 2.0, "sad": 1.0}


@dataclass(frozen=True)
class Scene:
    """The conditions of one photo; lengths in head units, angles in radians."""

    shift: Point
    scale: float
    angle: float
    turn: float
    mouth: str
    eye_openness: float
    clothes: str
    fabric: Colour
    backdrop: tuple[Colour, Colour]
    backdrop_angle: float
    brightness: float
    warmth: float
    side_light: float


def scene(path: str) -> Scene:
    """Draw the conditions of the photo that `path` names."""
    pose, light = stream(path, "pose"), stream(path, "light")
    face, dress = stream(path, "expression"), stream(path, "clothes")
    backdrop = stream(path, "backdrop")
    wall = backdrop.choice(BACKDROPS)
    other = mix(wall, backdrop.choice(BACKDROPS), backdrop.uniform(0.0, 0.7))
    return Scene(
        shift=(pose.uniform(-0.07, 0.07), pose.uniform(-0.03, 0.07)),
        scale=pose.uniform(0.92, 1.08),
        angle=math.radians(pose.uniform(-8, 8)),
        turn=pose.uniform(-1, 1),
        mouth=weighted(face, MOUTHS),
        eye_openness=0.55 if face.random() < 0.15 else face.uniform(0.88, 1.0),
        clothes=weighted(dress, CLOTHES),
        fabric=lighter(dress.choice(FABRICS), dress.uniform(0.0, 0.25)),
        backdrop=(wall, other),
        backdrop_angle=backdrop.uniform(0, math.tau),
        brightness=light.uniform(0.84, 1.08),
        warmth=light.uniform(-1, 1),
        side_light=light.uniform(-1, 1),
    )


@lru_cache(maxsize=8)
def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres in [-1, 1]: x of shape (1, size, 1) and y of shape (size, 1, 1)."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
    return axis[None, :, None], axis[:, None, None]


def compose(colour: np.ndarray, coverage: np.ndarray, conditions: Scene) -> np.ndarray:
    """Put a drawn layer before its backdrop and light both.

    Takes premultiplied colour (size, size, 3) and coverage (size, size, 1) in [0, 1], as
    `Canvas.layer` returns them; returns uint8 RGB (size, size, 3).
    """
    x, y = _grid(len(colour))
    dx, dy = x - conditions.shift[0], y - conditions.shift[1]
    # A head is roughly a ball lit from the front and a little from above.
    roundness = 1.04 - 0.1 * (dx * dx + (dy + 0.15) ** 2)
    side = 1 + 0.17 * conditions.side_light * dx
    near, far = (np.asarray(c, dtype=np.float32) / 255 for c in conditions.backdrop)
    across = math.cos(conditions.backdrop_angle), math.sin(conditions.backdrop_angle)
    blend = 0.5 + 0.35 * (across[0] * x + across[1] * y)
    picture = colour * (roundness * side) + (1 - coverage) * (near + (far - near) * blend)
    tint = np.array([1 + 0.05 * conditions.warmth, 1, 1 - 0.07 * conditions.warmth], np.float32)
    lit = picture * (255 * conditions.brightness * tint)
    return np.clip(lit + 0.5, 0, 255).astype(np.uint8)
