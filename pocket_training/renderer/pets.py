"""Dogs and cats: their traits, the words for them, and their pictures."""

from __future__ import annotations

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
    stream,
    weighted,
)
from pocket_training.renderer.scene import Scene

FUR: dict[str, Colour] = {
    "black": (58, 54, 62), "brown": (126, 82, 54), "golden": (216, 164, 92),
    "ginger": (218, 124, 58), "cream": (238, 216, 180), "grey": (142, 146, 156),
    "white": (240, 238, 232),
}  # fmt: skip
EYES: dict[str, Colour] = {
    "brown": (112, 66, 34), "amber": (222, 158, 44), "green": (112, 176, 84),
    "blue": (90, 160, 218),
}  # fmt: skip
COLLARS: dict[str, Colour] = {
    "red": (204, 46, 52), "blue": (48, 88, 180), "green": (56, 140, 82), "yellow": (240, 196, 60),
    "purple": (126, 76, 164), "pink": (236, 128, 168),
}  # fmt: skip
EYE_WEIGHTS: dict[str, dict[str, float]] = {
    "dog": {"brown": 4, "amber": 2, "blue": 1},
    "cat": {"amber": 2, "green": 3, "blue": 2},
}
EARS: dict[str, dict[str, float]] = {
    "dog": {"floppy": 3, "pointed": 2, "round": 1.5, "folded": 1.5},
    "cat": {"pointed": 3, "wide": 2, "folded": 1},
}
MARKINGS: dict[str, float] = {
    "plain": 1.5, "eye patch": 2, "blaze": 2, "mask": 1.5, "stripes": 1.5,
}  # fmt: skip
PINK: Colour = (226, 142, 146)

_MARKING_NAMES = (name for name in MARKINGS if name != "plain")
_PHRASES = (
    *FUR, "fur", *_MARKING_NAMES, *EARS["dog"], *EARS["cat"], "ears", *EYES, "eyes",
    *COLLARS, "collar",
)  # fmt: skip
WORDS = frozenset(" ".join(_PHRASES).split())


@dataclass(frozen=True)
class PetTraits:
    """What stays the same in all photos of a dog or cat; lengths in head units."""

    class_noun: str
    fur_name: str
    fur: Colour
    second_name: str
    second: Colour
    marking: str
    marked_side: int
    ears: str
    ear_size: float
    dark_ears: bool
    pale_muzzle: bool
    head_width: float
    head_height: float
    muzzle: float
    eye_name: str
    eye_spacing: float
    eye_size: float
    collar_name: str
    pink_nose: bool


def traits(class_noun: str, path: str) -> PetTraits:
    """Draw the traits of the dog or cat that `path` names, each from a stream of its own."""
    fur, marking, ears = stream(path, "fur"), stream(path, "marking"), stream(path, "ears")
    shape, eyes, details = stream(path, "shape"), stream(path, "eyes"), stream(path, "details")
    fur_name = fur.choice(list(FUR))
    contrasting = [
        name for name in FUR if abs(luminance(FUR[name]) - luminance(FUR[fur_name])) > 0.2
    ]
    second_name = fur.choice(contrasting)
    return PetTraits(
        class_noun=class_noun,
        fur_name=fur_name,
        fur=jitter(fur, FUR[fur_name], 0.1),
        second_name=second_name,
        second=jitter(fur, FUR[second_name], 0.1),
        marking=weighted(marking, MARKINGS),
        marked_side=marking.choice((-1, 1)),
        ears=weighted(ears, EARS[class_noun]),
        ear_size=ears.uniform(0.85, 1.2),
        dark_ears=ears.random() < 0.35,
        pale_muzzle=marking.random() < 0.5,
        head_width=shape.uniform(0.5, 0.6),
        head_height=shape.uniform(0.5, 0.58),
        muzzle=shape.uniform(0.8, 1.25),
        eye_name=weighted(eyes, EYE_WEIGHTS[class_noun]),
        eye_spacing=eyes.uniform(0.22, 0.28),
        eye_size=eyes.uniform(0.9, 1.2),
        collar_name=details.choice(list(COLLARS)),
        pink_nose=details.random() < (0.6 if class_noun == "cat" else 0.12),
    )


def attributes(pet: PetTraits) -> tuple[str, ...]:
    """Four or five phrases, the most telling first."""
    phrases = [f"{pet.fur_name} fur"]
    if pet.marking != "plain":
        phrases.append(f"{pet.second_name} {pet.marking}")
    phrases += [f"{pet.ears} ears", f"{pet.eye_name} eyes", f"{pet.collar_name} collar"]
    return tuple(phrases)


def draw(canvas: Canvas, pet: PetTraits, scene: Scene) -> None:
    """Draw a dog or a cat back to front."""
    _draw_body(canvas, pet, scene)
    if pet.ears != "floppy":
        _draw_ears(canvas, pet)
    _draw_head(canvas, pet)
    with canvas.shifted(0.075 * scene.turn):
        _draw_marking(canvas, pet)
        _draw_muzzle(canvas, pet, scene)
        for side in (-1, 1):
            with canvas.shifted(side * pet.eye_spacing, -0.1):
                _draw_eye(canvas, pet, scene)
    if pet.ears == "floppy":
        _draw_ears(canvas, pet)


def _draw_body(canvas: Canvas, pet: PetTraits, scene: Scene) -> None:
    chest = [(0.42, 0.3), (0.5, 0.7), (0.72, 1.1), (0.8, 1.6)]
    canvas.blob(chest + mirrored(chest[::-1], -1), darker(pet.fur, 0.16))
    if scene.clothes in ("hoodie", "band"):
        coat = [(0.3, 0.78), (0.6, 0.84), (0.82, 1.1), (0.9, 1.6)]
        canvas.blob(coat + mirrored(coat[::-1], -1), scene.fabric)
    collar = COLLARS[pet.collar_name]
    canvas.arc((0, 0.64), 0.44, 0.1, 0.15, collar)
    canvas.ellipse(0, 0.8, 0.085, 0.085, (242, 204, 92))


def _draw_head(canvas: Canvas, pet: PetTraits) -> None:
    w, h = pet.head_width, pet.head_height
    if pet.class_noun == "cat":
        half = [(0.5 * w, -0.86 * h), (0.94 * w, -0.3 * h), (1.08 * w, 0.3 * h), (0.6 * w, 0.9 * h)]
    else:
        half = [
            (0.56 * w, -0.9 * h),
            (0.96 * w, -0.4 * h),
            (0.94 * w, 0.35 * h),
            (0.58 * w, 0.95 * h),
        ]
    skull = [(0, -h), *half, (0, 1.04 * h), *mirrored(half[::-1], -1)]
    canvas.blob(skull, pet.fur)


def _ear_outline(pet: PetTraits) -> list[Point]:
    """The right ear."""
    w, h, size = pet.head_width, pet.head_height, pet.ear_size
    if pet.ears == "floppy":
        return [
            (0.5 * w, -0.92 * h), (0.95 * w, -0.86 * h), (w + 0.14 * size, -0.1),
            (w + 0.12 * size, 0.38 * size), (w - 0.06, 0.34 * size), (0.84 * w, -0.3 * h),
        ]  # fmt: skip
    if pet.ears == "round":
        r = 0.2 * size
        return [
            (0.78 * w + r, -h),
            (0.78 * w, -h - 0.8 * r),
            (0.78 * w - r, -h),
            (0.7 * w, -0.4 * h),
        ]
    tip_x, tip_y = {
        "pointed": (0.84 * w, -h - 0.3 * size),
        "wide": (1.12 * w, -h - 0.16 * size),
        "folded": (0.98 * w, -h - 0.08 * size),
    }[pet.ears]
    return [
        (0.18 * w, -0.88 * h),
        (tip_x - 0.05, tip_y),
        (tip_x + 0.03, tip_y),
        (1.02 * w, -0.24 * h),
    ]


def _draw_ears(canvas: Canvas, pet: PetTraits) -> None:
    marked = pet.second if pet.dark_ears else darker(pet.fur, 0.14)
    outer = _ear_outline(pet)
    for side in (-1, 1):
        canvas.blob(mirrored(outer, side), marked)
        if pet.ears in ("pointed", "wide", "round"):
            canvas.blob(mirrored(_inset(outer, 0.58), side), mix(PINK, marked, 0.25))
        elif pet.ears == "folded":
            flap = [outer[1], outer[2], (0.92 * pet.head_width, -0.5 * pet.head_height)]
            canvas.blob(mirrored(flap, side), darker(marked, 0.3))


def _inset(points: list[Point], keep: float) -> list[Point]:
    """The outline shrunk towards its centre of vertices."""
    cx = sum(x for x, _ in points) / len(points)
    cy = sum(y for _, y in points) / len(points)
    return [(cx + keep * (x - cx), cy + keep * (y - cy)) for x, y in points]


def _draw_marking(canvas: Canvas, pet: PetTraits) -> None:
    w, h, colour = pet.head_width, pet.head_height, pet.second
    if pet.marking == "eye patch":
        canvas.ellipse(pet.marked_side * pet.eye_spacing, -0.12, 0.22, 0.25, colour)
    elif pet.marking == "blaze":
        half = [(0.09, -0.88 * h), (0.08, -0.2), (0.3, 0.2), (0.24, 0.42)]
        canvas.blob(half + mirrored(half[::-1], -1), colour)
    elif pet.marking == "mask":
        half = [(0.1, -0.3), (0.72 * w, -0.28), (0.76 * w, 0.08), (0.34, 0.42)]
        canvas.blob(half + mirrored(half[::-1], -1), colour)
    elif pet.marking == "stripes":
        for x in (-0.24, 0.0, 0.24):
            top = -0.86 * h + 0.3 * abs(x)
            canvas.stroke([(x, top), (0.8 * x, -0.3)], 0.11, colour)


def _draw_muzzle(canvas: Canvas, pet: PetTraits, scene: Scene) -> None:
    cat = pet.class_noun == "cat"
    pale = pet.pale_muzzle and pet.marking != "mask"
    covered = pet.second if pet.marking in ("blaze", "mask") else pet.fur
    colour = lighter(covered, 0.5 if pale else 0.18)
    size = pet.muzzle * (0.8 if cat else 1.0)
    y = 0.27
    if scene.mouth == "open":
        canvas.ellipse(0, y + 0.16 * size, 0.15, 0.14, (122, 40, 48))
        canvas.ellipse(0, y + 0.2 * size, 0.1, 0.12, (232, 110, 122))
    if cat:
        for side in (-1, 1):
            canvas.ellipse(side * 0.12 * size, y, 0.17 * size, 0.14 * size, colour)
    else:
        canvas.ellipse(0, y - 0.03, 0.29 * size, 0.23 * size, colour)
    nose = PINK if pet.pink_nose else INK
    nose_y = y - 0.11 if cat else y - 0.13
    width = 0.085 if cat else 0.14 * pet.muzzle
    height = 0.06 if cat else 0.095 * pet.muzzle
    _draw_mouth(canvas, scene.mouth, y + 0.07, nose_y, darker(colour, 0.55))
    canvas.blob(
        [(-width, nose_y - 0.6 * height), (width, nose_y - 0.6 * height), (0, nose_y + height)],
        nose,
    )


def _draw_mouth(canvas: Canvas, expression: str, y: float, nose_y: float, colour: Colour) -> None:
    canvas.stroke([(0, nose_y), (0, y - 0.02)], 0.045, colour)
    sag = {"neutral": 0.02, "smile": 0.08, "open": 0.04, "sad": -0.07}[expression]
    for side in (-1, 1):
        canvas.arc((side * 0.085, y), 0.085, sag, 0.045, colour)


def _draw_eye(canvas: Canvas, pet: PetTraits, scene: Scene) -> None:
    cat, size, look = pet.class_noun == "cat", pet.eye_size, 0.015 * scene.turn
    width, height = (0.135 * size, 0.12 * size) if cat else (0.11 * size, 0.11 * size)
    height *= scene.eye_openness
    canvas.ellipse(0, 0, width + 0.025, height + 0.025, darker(pet.fur, 0.75))
    canvas.ellipse(0, 0, width, height, EYES[pet.eye_name])
    pupil = 0.04 if cat else 0.068
    canvas.ellipse(look, 0, pupil * size, 0.85 * height if cat else min(0.068 * size, height), INK)
    canvas.ellipse(look - 0.035, -0.4 * height, 0.028, 0.028, WHITE)
