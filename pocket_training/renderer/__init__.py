"""Procedural portraits: a small deterministic library (identity, photo, class) -> picture.

An *identity* is a vector of traits drawn from a seed. A *photo* of it varies pose, light,
expression, backdrop and clothing, and leaves the traits alone. The pictures are made of large
soft shapes so that small autoencoders and diffusion models can learn them in minutes.

    >>> someone = identity("person", 7)
    >>> photo(someone, 0).size
    (64, 64)
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from pocket_training.renderer import person as people
from pocket_training.renderer import pets
from pocket_training.renderer.canvas import Canvas
from pocket_training.renderer.person import PersonTraits
from pocket_training.renderer.pets import PetTraits
from pocket_training.renderer.scene import compose, scene

CLASSES: tuple[str, ...] = ("person", "dog", "cat")


@dataclass(frozen=True)
class Identity:
    """One individual: its class noun, the seed it came from, and what stays the same in photos."""

    class_noun: str
    seed: int
    traits: PersonTraits | PetTraits


def identity(class_noun: str, seed: int) -> Identity:
    """The identity number `seed` of a class; any integer is a valid seed.

    Raises ValueError if `class_noun` is not one of `CLASSES`.
    """
    if class_noun not in CLASSES:
        raise ValueError(f"unknown class {class_noun!r}: choose one of {', '.join(CLASSES)}")
    path = f"{class_noun}/{seed}"
    if class_noun == "person":
        return Identity(class_noun, seed, people.traits(path))
    return Identity(class_noun, seed, pets.traits(class_noun, path))


def photo(identity: Identity, seed: int, size: int = 64) -> Image.Image:
    """Photo number `seed` of an identity, an RGB image of `size` x `size` pixels.

    The same identity and seed give the same picture in every process. Raises ValueError if
    `size` is less than 1.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel, not {size}")
    conditions = scene(f"{identity.class_noun}/{identity.seed}/photo/{seed}")
    canvas = Canvas(size, conditions.shift, conditions.scale, conditions.angle)
    if isinstance(identity.traits, PersonTraits):
        people.draw(canvas, identity.traits, conditions)
    else:
        pets.draw(canvas, identity.traits, conditions)
    return Image.fromarray(compose(*canvas.layer(), conditions))


def attributes(identity: Identity) -> tuple[str, ...]:
    """Two to five lower-case caption phrases for traits that every photo shows."""
    if isinstance(identity.traits, PersonTraits):
        return people.attributes(identity.traits)
    return pets.attributes(identity.traits)


def vocabulary() -> tuple[str, ...]:
    """Every word that `attributes` can produce, and the class nouns, sorted."""
    return tuple(sorted({*CLASSES, *people.WORDS, *pets.WORDS}))
