"""A posed, supersampled canvas of soft shapes, and the colour arithmetic that goes with it.

Coordinates are in *head units*: the origin is the centre of the head, x grows to the right,
y grows downwards, and the unposed frame spans [-1, 1] in both.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]

WHITE: Colour = (250, 248, 244)
INK: Colour = (38, 30, 34)

_CIRCLE = [(math.cos(math.tau * i / 32), math.sin(math.tau * i / 32)) for i in range(32)]


def _catmull_rom_weights(t: float) -> tuple[float, float, float, float]:
    return (
        (-t + 2 * t**2 - t**3) / 2,
        (2 - 5 * t**2 + 3 * t**3) / 2,
        (t + 4 * t**2 - 3 * t**3) / 2,
        (t**3 - t**2) / 2,
    )


_SPLINE = [_catmull_rom_weights(i / 6) for i in range(6)]


def stream(*names: object) -> random.Random:
    """A random stream of its own for a path of names; the same on every platform."""
    return random.Random("/".join(map(str, names)))


def weighted(rng: random.Random, weights: Mapping[str, float]) -> str:
    """Draw one key of `weights` with probability proportional to its value."""
    return rng.choices(list(weights), list(weights.values()))[0]


def mix(a: Colour, b: Colour, amount: float) -> Colour:
    """Blend from `a` (amount 0) to `b` (amount 1)."""
    red, green, blue = (round(x + (y - x) * amount) for x, y in zip(a, b, strict=True))
    return red, green, blue


def darker(colour: Colour, amount: float) -> Colour:
    """Blend towards a warm black."""
    return mix(colour, (24, 12, 16), amount)


def lighter(colour: Colour, amount: float) -> Colour:
    """Blend towards a warm white."""
    return mix(colour, (255, 250, 242), amount)


def ramp(stops: Sequence[Colour], position: float) -> Colour:
    """Look `position` in [0, 1] up on a piecewise linear ramp of at least two colours."""
    scaled = position * (len(stops) - 1)
    index = min(int(scaled), len(stops) - 2)
    return mix(stops[index], stops[index + 1], scaled - index)


def jitter(rng: random.Random, colour: Colour, amount: float = 0.14) -> Colour:
    """A slightly darker or lighter variant of a named colour."""
    change = rng.uniform(-amount, amount)
    return lighter(colour, change) if change > 0 else darker(colour, -change)


def luminance(colour: Colour) -> float:
    """Perceived lightness in [0, 1]."""
    red, green, blue = colour
    return (0.299 * red + 0.587 * green + 0.114 * blue) / 255


def mirrored(points: Sequence[Point], side: int) -> list[Point]:
    """The points with x multiplied by `side`, which is +1 or -1."""
    return [(side * x, y) for x, y in points]


class Canvas:
    """Draws opaque soft shapes under one similarity transform.

    `oversampling` samples per output pixel and axis antialias the edges when `layer` averages
    them; `shift` is in head units, `angle` in radians, clockwise as seen on screen.
    """

    def __init__(
        self, size: int, shift: Point, scale: float, angle: float, oversampling: int = 4
    ) -> None:
        # The fourth channel of RGBX is a plain coverage mask: unlike RGBA, Pillow averages it
        # without dividing by alpha, so that downscaling yields premultiplied colour directly.
        self._image = Image.new("RGBX", (size * oversampling,) * 2, (0, 0, 0, 0))
        self._draw = ImageDraw.Draw(self._image)
        self._size = size
        half = size * oversampling / 2
        self._unit = half * scale
        self._cos, self._sin = self._unit * math.cos(angle), self._unit * math.sin(angle)
        self._origin = half * (1 + shift[0]), half * (1 + shift[1])

    @contextmanager
    def shifted(self, dx: float, dy: float = 0.0) -> Iterator[None]:
        """Move what is drawn inside the block, as a turning head moves its features."""
        origin_x, origin_y = self._origin
        self._origin = self._place(dx, dy)
        try:
            yield
        finally:
            self._origin = origin_x, origin_y

    def _place(self, x: float, y: float) -> Point:
        origin_x, origin_y = self._origin
        return origin_x + x * self._cos - y * self._sin, origin_y + x * self._sin + y * self._cos

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        """Fill a closed polygon."""
        origin_x, origin_y = self._origin
        cos, sin = self._cos, self._sin
        self._draw.polygon(
            [(origin_x + x * cos - y * sin, origin_y + x * sin + y * cos) for x, y in points],
            fill=(*colour, 255),
        )

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        """Fill an ellipse around (x, y) with the given radii."""
        self.polygon([(x + rx * cos, y + ry * sin) for cos, sin in _CIRCLE], colour)

    def blob(self, knots: Sequence[Point], colour: Colour) -> None:
        """Fill the closed Catmull-Rom spline through `knots`."""
        count = len(knots)
        outline = []
        for i in range(count):
            (ax, ay), (bx, by) = knots[i - 1], knots[i]
            (cx, cy), (dx, dy) = knots[(i + 1) % count], knots[(i + 2) % count]
            outline += [
                (a * ax + b * bx + c * cx + d * dx, a * ay + b * by + c * cy + d * dy)
                for a, b, c, d in _SPLINE
            ]
        self.polygon(outline, colour)

    def stroke(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        """Draw a thick polyline with round joints and ends."""
        placed = [self._place(x, y) for x, y in points]
        fill = (*colour, 255)
        radius = width * self._unit / 2
        self._draw.line(placed, fill=fill, width=max(1, round(2 * radius)))
        for x, y in placed:
            self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)

    def arc(
        self, centre: Point, half_width: float, sag: float, width: float, colour: Colour
    ) -> None:
        """Stroke a parabola whose middle lies `sag` below its ends (above them if negative)."""
        x, y = centre
        steps = (-1.0, -0.67, -0.33, 0.0, 0.33, 0.67, 1.0)
        curve = [(x + half_width * t, y + sag * (0.5 - t * t)) for t in steps]
        self.stroke(curve, width, colour)

    def layer(self) -> tuple[np.ndarray, np.ndarray]:
        """The drawing at output size.

        Returns premultiplied colour, float32 (size, size, 3), and coverage, float32
        (size, size, 1), both in [0, 1].
        """
        # BILINEAR rather than BOX: its wider support softens edges, which small autoencoders
        # reconstruct better.
        image = self._image.resize((self._size, self._size), Image.Resampling.BILINEAR)
        pixels = np.asarray(image, dtype=np.float32) / 255
        return pixels[..., :3], pixels[..., 3:]
