"""What a protection of several subjects prepares: once for every class, not for every subject."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.errors import UsageError
from apdm_cli.extension.protection import Inputs, Protection
from apdm_cli.protection.ingredients import Ingredients, encode_photos, pictures_needed
from apdm_cli.protection.prompts import training_subject
from apdm_cli.subject import Subject


def inputs_of(protection: Protection, subjects: Sequence[Subject], config: Any) -> list[Inputs]:
    """What φ has to draw for every subject; the same for subjects of one class.

    Raises:
        UsageError: photos of somebody else that could be of any of several classes.
    """
    inputs = [protection.inputs(subject, config) for subject in subjects]
    if len(first_of_classes(subjects)) > 1 and any(one.folders for one in inputs):
        raise UsageError(
            "others.folders does not say of which class its people are, and the subjects are of "
            "several",
            "Set others.folders=[], so that the others are drawn from captions of every class.",
        )
    return inputs


def first_of_classes(subjects: Sequence[Subject]) -> list[int]:
    """Indices of the first subject of every class."""
    first: dict[str, int] = {}
    for number, subject in enumerate(subjects):
        first.setdefault(subject.class_noun, number)
    return list(first.values())


def ingredients_of(
    model: DiffusionModel,
    subjects: Sequence[Subject],
    inputs: Sequence[Inputs],
    make: Callable[[Subject, Inputs], Ingredients],
) -> list[Ingredients]:
    """Ingredients for every subject. Those of one class share all but their photos.

    Args:
        make: draws and encodes everything for one subject.
    """
    of_class: dict[str, Ingredients] = {}
    found = []
    for subject, asked in zip(subjects, inputs, strict=True):
        there = of_class.get(subject.class_noun)
        if there is not None and len(there.class_pictures) >= pictures_needed(subject, asked):
            found.append(replace(there, photos=encode_photos(model, subject)))
            continue
        found.append(make(subject, asked))
        of_class[subject.class_noun] = found[-1]
    return found


def pictures_to_draw(subjects: Sequence[Subject], inputs: Sequence[Inputs]) -> int:
    """Pictures that φ draws for all of them."""
    pictures: dict[str, int] = {}
    for subject, asked in zip(subjects, inputs, strict=True):
        needed = pictures_needed(subject, asked) + asked.drawn
        pictures[subject.class_noun] = max(pictures.get(subject.class_noun, 0), needed)
    return sum(pictures.values())


def captions_of(subjects: Sequence[Subject], inputs: Sequence[Inputs]) -> list[str]:
    """Every caption that is drawn, of each class once."""
    chosen = [inputs[number] for number in first_of_classes(subjects)]
    return [caption for one in chosen for caption in chain(one.captions, *one.others)]


def in_words_of_training(subjects: Sequence[Subject], style: str) -> list[Subject]:
    """`training_subject` of each."""
    return [training_subject(subject, style) for subject in subjects]
