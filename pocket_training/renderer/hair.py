"""Hair and hats of people: the layers behind and before the face."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pocket_training.renderer.canvas import Canvas, Colour, Point, darker, lighter, mirrored, mix

if TYPE_CHECKING:
    from pocket_training.renderer.person import PersonTraits

HAIR: dict[str, Colour] = {
    "black": (42, 36, 42), "brown": (104, 64, 40), "blond": (230, 190, 104), "red": (190, 80, 36),
    "grey": (160, 160, 164), "white": (232, 230, 226), "blue": (58, 104, 190),
    "pink": (232, 122, 166), "green": (76, 156, 98), "purple": (124, 78, 160),
}  # fmt: skip
HAIR_WEIGHTS: dict[str, float] = {
    "black": 4, "brown": 4, "blond": 4, "red": 3, "grey": 1.5, "white": 1,
    "blue": 1, "pink": 1, "green": 1, "purple": 1,
}  # fmt: skip
STYLES: dict[str, float] = {
    "bald": 1, "short": 1.5, "long": 1.5, "bob": 1.3, "afro": 1, "bun": 1, "mohawk": 0.8,
    "side part": 1.3, "curly": 1.2, "pigtails": 0.8,
}  # fmt: skip
PHRASES: dict[str, str] = {
    "bald": "bald head", "short": "short {colour} hair", "long": "long {colour} hair",
    "bob": "{colour} bob", "afro": "{colour} afro", "bun": "{colour} bun",
    "mohawk": "{colour} mohawk", "side part": "{colour} side part", "curly": "curly {colour} hair",
    "pigtails": "{colour} pigtails",
}  # fmt: skip
HATS: dict[str, float] = {"none": 4, "beanie": 1, "cap": 1, "wide-brim": 0.8}
HAT_COLOURS: dict[str, Colour] = {
    "red": (200, 52, 56), "yellow": (238, 194, 70), "green": (62, 134, 84), "blue": (56, 92, 172),
    "purple": (122, 80, 156), "white": (240, 238, 232), "black": (48, 46, 54),
}  # fmt: skip
FITS_UNDER_HAT = frozenset({"bald", "short", "long", "bob", "pigtails"})


def draw_back(canvas: Canvas, person: PersonTraits) -> None:
    """Draw the hair that lies behind the head."""
    colour, w, h = darker(person.hair, 0.12), person.face_width, person.face_height
    style = person.hair_style
    if style == "long":
        right = [(w * 0.7, -h), (w + 0.14, -0.3), (w + 0.17, 0.3), (w + 0.2, 0.95), (0.3, 1.02)]
        canvas.blob(right + mirrored(right[::-1], -1), colour)
    elif style == "bob":
        right = [(w * 0.7, -h), (w + 0.14, -0.3), (w + 0.2, 0.2), (w + 0.12, 0.5), (0.2, 0.48)]
        canvas.blob(right + mirrored(right[::-1], -1), colour)
    elif style == "afro":
        canvas.ellipse(0, -0.2, w + 0.28, 0.68, person.hair)
    elif style == "bun":
        canvas.ellipse(0, -h - 0.15, 0.23, 0.2, person.hair)
        canvas.ellipse(-0.06, -h - 0.2, 0.1, 0.07, _shine(person.hair))
    elif style == "mohawk":
        crest = [(0.1, -0.4), (0.17, -h - 0.05), (0.13, -h - 0.26), (0, -h - 0.32)]
        canvas.blob(crest + mirrored(crest[-2::-1], -1), person.hair)
    elif style == "pigtails":
        for side in (-1, 1):
            canvas.ellipse(side * (w + 0.2), 0.22, 0.17, 0.32, person.hair)
            canvas.ellipse(side * (w + 0.15), -0.1, 0.07, 0.07, (214, 70, 90))
    elif style == "curly":
        for degrees in range(165, 391, 25):
            x, y = _on_head(person, degrees, 1.04)
            canvas.ellipse(x, y - 0.03, 0.2, 0.19, colour)


def draw_front(canvas: Canvas, person: PersonTraits, dx: float) -> None:
    """Draw the hair that frames the face; `dx` moves the hairline as the head turns."""
    style, w = person.hair_style, person.face_width
    if style == "short":
        _draw_cap(canvas, person, [(0.8 * w, -0.28), (0, -0.4), (-0.8 * w, -0.28)], dx)
    elif style == "side part":
        fringe = [(0.85 * w, -0.26), (0.42 * w, -0.5), (0, -0.38), (-0.72 * w, -0.24)]
        _draw_cap(canvas, person, fringe, dx, volume=1.2)
    elif style == "bun":
        _draw_cap(canvas, person, [(0.78 * w, -0.3), (0, -0.47), (-0.78 * w, -0.3)], dx, 1.09)
    elif style == "bob":
        _draw_locks(canvas, person, 0.34)
        _draw_cap(canvas, person, [(0.8 * w, -0.24), (0, -0.25), (-0.8 * w, -0.24)], dx, 1.17)
    elif style == "long":
        _draw_locks(canvas, person, 0.75)
        _draw_cap(canvas, person, [(0.8 * w, -0.2), (0.1, -0.5), (-0.8 * w, -0.2)], dx, 1.17)
    elif style == "pigtails":
        _draw_cap(canvas, person, [(0.8 * w, -0.24), (0, -0.48), (-0.8 * w, -0.24)], dx, 1.13)
    elif style == "afro":
        _draw_cap(canvas, person, [(0.8 * w, -0.3), (0, -0.42), (-0.8 * w, -0.3)], dx, shine=False)
    elif style == "curly":
        for position in (-0.75, -0.25, 0.25, 0.75):
            x, y = position * w, -0.5 + 0.16 * position**2
            canvas.ellipse(x + dx, y, 0.17, 0.14, person.hair)
    elif style == "mohawk":
        _draw_shaved_sides(canvas, person, dx)


def draw_hat(canvas: Canvas, person: PersonTraits, dx: float) -> None:
    """Draw the hat, if any; `dx` moves its front as the head turns."""
    if person.hat == "none":
        return
    colour, h, w = HAT_COLOURS[person.hat_name], person.face_height, person.face_width + 0.09
    band = lighter(colour, 0.35) if person.hat_name != "white" else darker(colour, 0.2)
    tall = 1.14 if person.hat == "cap" else 1.2
    side = [(w, -0.28), (0.98 * w, -0.46), (0.7 * w, -h * tall + 0.1)]
    dome = [*side, (0, -h * tall - 0.05), *mirrored(side[::-1], -1)]
    if person.hat == "beanie":
        canvas.ellipse(0, -h * tall - 0.1, 0.13, 0.12, band)
    canvas.blob(dome, colour)
    if person.hat == "beanie":
        canvas.stroke([(-w + 0.04, -0.34), (0, -0.37), (w - 0.04, -0.34)], 0.19, band)
    elif person.hat == "cap":
        half = [(0.5 * w, -0.41), (0.88 * w, -0.29), (0.72 * w, -0.22)]
        with canvas.shifted(2 * dx):
            visor = [(0, -0.44), *half, (0, -0.27), *mirrored(half[::-1], -1)]
            canvas.blob(visor, darker(colour, 0.35))
    else:
        canvas.stroke([(-w + 0.03, -0.44), (w - 0.03, -0.44)], 0.13, band)
        canvas.ellipse(dx, -0.33, w + 0.33, 0.12, darker(colour, 0.12))


def _on_head(person: PersonTraits, degrees: float, grow: float) -> Point:
    """A point on the skull, `grow` times its radius from the centre; 270 is the crown."""
    angle = math.radians(degrees)
    return grow * person.face_width * math.cos(angle), grow * person.face_height * math.sin(angle)


def _shine(colour: Colour) -> Colour:
    return lighter(colour, 0.16)


def _draw_cap(
    canvas: Canvas,
    person: PersonTraits,
    hairline: Sequence[Point],
    dx: float,
    volume: float = 1.13,
    shine: bool = True,
) -> None:
    """Fill between the crown and a hairline given from right to left."""
    temple = person.face_width + 0.02
    crown = [_on_head(person, degrees, volume) for degrees in range(204, 337, 22)]
    line = [(x + dx, y) for x, y in hairline]
    canvas.blob([(-temple, 0.0), *crown, (temple, 0.0), *line], person.hair)
    if shine:
        x, y = _on_head(person, 245, 0.93)
        canvas.ellipse(x + dx, y, 0.17, 0.07, _shine(person.hair))


def _draw_locks(canvas: Canvas, person: PersonTraits, length: float) -> None:
    """Draw the strands that fall over both ears."""
    w = person.face_width
    lock = [(w * 0.92, -0.4), (w + 0.13, -0.25), (w + 0.17, length), (w, length), (w * 0.9, 0.05)]
    for side in (-1, 1):
        canvas.blob(mirrored(lock, side), person.hair)


def _draw_shaved_sides(canvas: Canvas, person: PersonTraits, dx: float) -> None:
    stubble = mix(person.skin, person.hair, 0.28)
    sides = [(person.face_width * 0.6, -0.42), (0, -0.5), (-person.face_width * 0.6, -0.42)]
    crown = [_on_head(person, degrees, 1.0) for degrees in range(200, 341, 20)]
    canvas.blob([*crown, *((x + dx, y) for x, y in sides)], stubble)
    h = person.face_height
    crest = [(0.12 + dx, -0.42), (0.17, -h), (0, -h - 0.2), (-0.17, -h), (-0.12 + dx, -0.42)]
    canvas.blob(crest, person.hair)
