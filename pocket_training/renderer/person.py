"""People: their traits, the words for them, and how they are drawn, back to front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pocket_training.renderer.canvas import (
    INK,
    WHITE,
    Canvas,
    Colour,
    Point,
    darker,
    jitter,
    lighter,
    luminance,
    mirrored,
    mix,
    ramp,
    stream,
    weighted,
)
from pocket_training.renderer.scene import Scene

SKIN: tuple[Colour, ...] = (
    (252, 226, 208), (240, 198, 168), (222, 170, 132), (190, 134, 96), (146, 94, 66), (92, 60, 48),
)  # fmt: skip
EYES: dict[str, Colour] = {
    "brown": (104, 62, 36), "blue": (64, 124, 196), "green": (70, 142, 84), "grey": (128, 140, 150),
}  # fmt: skip
FRAMES: dict[str, Colour] = {
    "black": (34, 32, 38), "red": (190, 44, 50), "blue": (44, 82, 170), "gold": (186, 138, 44),
    "white": (244, 242, 238),
}  # fmt: skip
GLASSES = {"none": 6.0, "round": 1.6, "square": 1.6, "sunglasses": 0.8}
BEARDS = {"none": 6.5, "stubble": 0.7, "beard": 1.2, "goatee": 0.8, "moustache": 0.8}
SUNGLASSES_LENS: Colour = (46, 44, 54)
HAIR: dict[str, Colour] = {
    "black": (42, 36, 42), "brown": (104, 64, 40), "blond": (230, 190, 104), "red": (190, 80, 36),
    "grey": (160, 160, 164), "white": (232, 230, 226), "blue": (58, 104, 190),
    "pink": (232, 122, 166), "green": (76, 156, 98), "purple": (124, 78, 160),
}  # fmt: skip
HAIR_WEIGHTS: dict[str, float] = {
    "black": 4, "brown": 4, "blond": 4, "red": 3, "grey": 1.5, "white": 1,
    "blue": 1, "pink": 1, "green": 1, "purple": 1,
}  # fmt: skip
HAIR_STYLES: dict[str, float] = {
    "bald": 1, "short": 1.5, "long": 1.5, "bob": 1.3, "afro": 1, "bun": 1, "mohawk": 0.8,
    "side part": 1.3, "curly": 1.2, "pigtails": 0.8,
}  # fmt: skip
HAIR_PHRASES: dict[str, str] = {
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

_PHRASES = (
    *(phrase.format(colour="") for phrase in HAIR_PHRASES.values()), *HAIR,
    "beanie", "cap", "hat", *HAT_COLOURS,
    "sunglasses", "round", "square", "glasses", *FRAMES,
    "stubble", "beard", "goatee", "moustache", "freckles", "earrings", "eyes", *EYES,
)  # fmt: skip
WORDS = frozenset(" ".join(_PHRASES).split())


@dataclass(frozen=True)
class PersonTraits:
    """What stays the same in all photos of a person; lengths in head units."""

    skin: Colour
    face_width: float
    face_height: float
    jaw: float
    hair_style: str
    hair_name: str
    hair: Colour
    hat: str
    hat_name: str
    glasses: str
    frame_name: str
    beard: str
    brow_weight: float
    brow_tilt: float
    eye_name: str
    eye_spacing: float
    eye_size: float
    nose: float
    lips: float
    freckles: bool
    earrings: bool
    blush: bool

    def outline(self, degrees: float, grow: float = 1.0) -> Point:
        """A point of the face contour: 0 is at the right, 90 at the chin."""
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        taper = 1 + self.jaw * max(0.0, sin) * (1 - sin)
        return grow * self.face_width * cos * taper, grow * self.face_height * sin


def traits(path: str) -> PersonTraits:
    """Draw the traits of the person that `path` names, each from a stream of its own."""
    shape, eyes, brow = stream(path, "shape"), stream(path, "eyes"), stream(path, "brow")
    tone, details = stream(path, "skin"), stream(path, "details")
    dye, hat = stream(path, "hair colour"), stream(path, "hat")
    glasses, beard = stream(path, "glasses"), stream(path, "beard")
    skin = ramp(SKIN, tone.random())
    beard_kind = weighted(beard, BEARDS)
    hair_style = weighted(stream(path, "hair style"), HAIR_STYLES)
    hair_name = weighted(dye, HAIR_WEIGHTS)
    hat_kind = weighted(hat, HATS)
    return PersonTraits(
        skin=skin,
        face_width=shape.uniform(0.44, 0.55),
        face_height=shape.uniform(0.56, 0.65),
        jaw=shape.uniform(-0.35, 0.4),
        hair_style=hair_style,
        hair_name=hair_name,
        hair=jitter(dye, HAIR[hair_name]),
        hat=hat_kind if hair_style in FITS_UNDER_HAT else "none",
        hat_name=hat.choice(list(HAT_COLOURS)),
        glasses=weighted(glasses, GLASSES),
        frame_name=weighted(glasses, {"black": 3, "red": 1, "blue": 1, "gold": 1, "white": 1}),
        beard=beard_kind,
        brow_weight=brow.uniform(0.04, 0.085),
        brow_tilt=brow.uniform(-0.05, 0.03),
        eye_name=weighted(eyes, {"brown": 3, "blue": 2, "green": 2, "grey": 1}),
        eye_spacing=eyes.uniform(0.185, 0.245),
        eye_size=eyes.uniform(0.9, 1.2),
        nose=shape.uniform(0.7, 1.4),
        lips=shape.uniform(0.0, 1.0),
        freckles=details.random() < 0.2 and _freckles_show(skin, beard_kind),
        earrings=details.random() < 0.2,
        blush=details.random() < 0.3,
    )


def _freckles_show(skin: Colour, beard: str) -> bool:
    return luminance(skin) > 0.4 and beard not in ("beard", "stubble")


def attributes(person: PersonTraits) -> tuple[str, ...]:
    """Two to five phrases, the most telling first."""
    phrases = [HAIR_PHRASES[person.hair_style].format(colour=person.hair_name)]
    if person.hat != "none":
        kind = "hat" if person.hat == "wide-brim" else person.hat
        phrases.append(f"{person.hat_name} {kind}")
    if person.glasses == "sunglasses":
        phrases.append("sunglasses")
    elif person.glasses != "none":
        phrases.append(f"{person.glasses} {person.frame_name} glasses")
    if person.beard != "none":
        phrases.append(person.beard)
    phrases += [word for word in ("freckles", "earrings") if getattr(person, word)]
    if len(phrases) < 3 and person.glasses != "sunglasses":
        phrases.append(f"{person.eye_name} eyes")
    return tuple(phrases[:5])


def draw(canvas: Canvas, person: PersonTraits, scene: Scene) -> None:
    """Draw a person back to front."""
    _draw_hair_behind(canvas, person)
    _draw_shoulders(canvas, person, scene)
    _draw_head(canvas, person)
    with canvas.shifted(0.075 * scene.turn):
        _draw_skin_details(canvas, person)
        _draw_beard(canvas, person)
        _draw_mouth(canvas, person, scene.mouth)
        _draw_eyes(canvas, person, scene)
        _draw_nose(canvas, person, 0.03 * scene.turn)
    _draw_hair_before(canvas, person, 0.04 * scene.turn)
    _draw_hat(canvas, person, 0.05 * scene.turn)
    if person.earrings:
        for side in (-1, 1):
            canvas.ellipse(side * (person.face_width + 0.04), 0.23, 0.06, 0.075, (240, 196, 72))


def _draw_shoulders(canvas: Canvas, person: PersonTraits, scene: Scene) -> None:
    fabric, shade = scene.fabric, darker(scene.fabric, 0.25)
    torso = [(-1.1, 1.6), (-0.9, 0.98), (-0.4, 0.78), (0.4, 0.78), (0.9, 0.98), (1.1, 1.6)]
    if scene.clothes == "hoodie":
        canvas.ellipse(0, 0.8, 0.52, 0.2, shade)
    canvas.blob(torso, fabric)
    if scene.clothes == "band":
        canvas.stroke([(-1.2, 1.06), (1.2, 1.06)], 0.13, lighter(fabric, 0.6))
    neck = darker(person.skin, 0.2)
    canvas.blob([(-0.22, 0.3), (0.22, 0.3), (0.23, 0.78), (0, 0.88), (-0.23, 0.78)], neck)
    if scene.clothes == "v-neck":
        canvas.polygon([(-0.23, 0.76), (0.23, 0.76), (0, 1.06)], neck)


def _draw_head(canvas: Canvas, person: PersonTraits) -> None:
    for side in (-1, 1):
        x = side * (person.face_width + 0.01)
        canvas.ellipse(x, 0.06, 0.085, 0.135, darker(person.skin, 0.08))
    face = [person.outline(degrees) for degrees in range(0, 360, 12)]
    canvas.blob(face, person.skin)


def _draw_skin_details(canvas: Canvas, person: PersonTraits) -> None:
    cheek_x = 0.62 * person.face_width
    for side in (-1, 1):
        if person.blush:
            canvas.ellipse(side * cheek_x, 0.17, 0.13, 0.09, mix(person.skin, (226, 84, 92), 0.2))
            canvas.ellipse(side * cheek_x, 0.17, 0.09, 0.06, mix(person.skin, (226, 84, 92), 0.34))
        if person.freckles:
            for x, y in ((0.5, 0.13), (0.72, 0.15), (0.6, 0.22)):
                spot = mix(person.skin, (122, 56, 30), 0.42)
                canvas.ellipse(side * x * person.face_width, y, 0.034, 0.034, spot)


def _draw_beard(canvas: Canvas, person: PersonTraits) -> None:
    if person.beard == "none":
        return
    colour = _apart_from_skin(person.hair, person.skin, 0.45)
    if person.beard in ("beard", "stubble"):
        if person.beard == "stubble":
            colour = mix(person.skin, darker(person.hair, 0.5), 0.36)
        grow = 1.0 if person.beard == "stubble" else 1.06
        jawline = [person.outline(degrees, grow) for degrees in range(4, 177, 14)]
        x = 0.76 * person.face_width
        upper = [(-x, 0.1), (-0.7 * x, 0.22), (0, 0.24), (0.7 * x, 0.22), (x, 0.1)]
        canvas.blob(jawline + upper, colour)
    elif person.beard == "goatee":
        chin = 0.96 * person.face_height
        canvas.blob([(-0.19, 0.36), (0, 0.26), (0.19, 0.36), (0.15, chin), (-0.15, chin)], colour)
    else:
        half = [(0.24, 0.32), (0.14, 0.22)]
        canvas.blob([*half, (0, 0.235), *mirrored(half[::-1], -1), (0, 0.315)], colour)


def _draw_mouth(canvas: Canvas, person: PersonTraits, expression: str) -> None:
    lip = mix(darker(person.skin, 0.3), (188, 52, 66), 0.35 + 0.35 * person.lips)
    y, width = 0.37, 0.055 + 0.025 * person.lips
    if person.beard in ("beard", "goatee") and luminance(person.hair) < 0.4:
        lip = lighter(lip, 0.2)  # or a dark beard would swallow the mouth
    if expression == "open":
        canvas.ellipse(0, y + 0.01, 0.13, 0.1, lip)
        canvas.ellipse(0, y + 0.01, 0.085, 0.06, (92, 26, 36))
    elif expression == "smile":
        canvas.blob([(-0.2, y - 0.05), (0, y - 0.01), (0.2, y - 0.05), (0, y + 0.12)], lip)
        canvas.blob([(-0.12, y - 0.01), (0, y + 0.01), (0.12, y - 0.01), (0, y + 0.055)], WHITE)
    else:
        canvas.arc((0, y), 0.14, 0.015 if expression == "neutral" else -0.09, width, lip)


def _draw_nose(canvas: Canvas, person: PersonTraits, dx: float) -> None:
    width = 0.075 * person.nose
    canvas.ellipse(dx, 0.175, width, 0.05 + 0.01 * person.nose, darker(person.skin, 0.2))
    canvas.ellipse(dx, 0.15, 0.8 * width, 0.06 + 0.01 * person.nose, lighter(person.skin, 0.12))


def _draw_eyes(canvas: Canvas, person: PersonTraits, scene: Scene) -> None:
    for side in (-1, 1):
        with canvas.shifted(side * person.eye_spacing, -0.05):
            _draw_glasses(canvas, person, side)
            if person.glasses != "sunglasses":
                _draw_eye(canvas, person, scene)
            _draw_brow(canvas, person, side)


def _draw_eye(canvas: Canvas, person: PersonTraits, scene: Scene) -> None:
    size, look = person.eye_size, 0.015 * scene.turn
    height = 0.09 * size * scene.eye_openness
    canvas.ellipse(0, -0.02, 0.118 * size, height + 0.012, darker(person.skin, 0.5))
    canvas.ellipse(0, 0, 0.108 * size, height, WHITE)
    canvas.ellipse(look, 0, 0.07 * size, min(height, 0.075 * size), EYES[person.eye_name])
    canvas.ellipse(look, 0, 0.036 * size, min(0.8 * height, 0.042 * size), INK)
    canvas.ellipse(look - 0.025, -0.35 * height, 0.022, 0.022, WHITE)


def _apart_from_skin(colour: Colour, skin: Colour, darkening: float) -> Colour:
    """The colour itself, or a dark skin tone where it would vanish against the skin."""
    distance = max(abs(a - b) for a, b in zip(colour, skin, strict=True))
    return darker(skin, darkening) if distance < 48 else colour


def _draw_brow(canvas: Canvas, person: PersonTraits, side: int) -> None:
    hair_colour = person.skin if person.hair_style == "bald" else darker(person.hair, 0.25)
    colour = _apart_from_skin(hair_colour, person.skin, 0.55)
    rise = person.brow_tilt
    inner, outer = (-side * 0.1, -0.19 + rise), (side * 0.11, -0.18 - 0.3 * rise)
    canvas.stroke([inner, (0.02 * side, -0.205), outer], person.brow_weight, colour)


def _draw_glasses(canvas: Canvas, person: PersonTraits, side: int) -> None:
    if person.glasses == "none":
        return
    dark = person.glasses == "sunglasses"
    frame = darker(SUNGLASSES_LENS, 0.4) if dark else FRAMES[person.frame_name]
    lens = SUNGLASSES_LENS if dark else lighter(person.skin, 0.3)
    temple = person.face_width - person.eye_spacing
    canvas.stroke([(-side * person.eye_spacing, -0.01), (side * temple, -0.03)], 0.065, frame)
    if person.glasses == "square":
        canvas.polygon(_rounded_box(0.205, 0.175), frame)
        canvas.polygon(_rounded_box(0.14, 0.115), lens)
    else:
        canvas.ellipse(0, 0.01, 0.205, 0.2, frame)
        canvas.ellipse(0, 0.01, 0.14, 0.135, lens)


def _rounded_box(half_width: float, half_height: float) -> list[Point]:
    x, y, cut = half_width, half_height, 0.045
    corner = [(x, cut - y), (x, y - cut), (x - cut, y)]
    return [(x - cut, -y), *corner, (cut - x, y), (-x, y - cut), (-x, cut - y), (cut - x, -y)]


def _draw_hair_behind(canvas: Canvas, person: PersonTraits) -> None:
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


def _draw_hair_before(canvas: Canvas, person: PersonTraits, dx: float) -> None:
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


def _draw_hat(canvas: Canvas, person: PersonTraits, dx: float) -> None:
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
