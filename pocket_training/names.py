"""Invented, pronounceable first names, one per named identity."""

from __future__ import annotations

import torch

from pocket_training.plan import NAMED_FROM
from pocket_training.streams import stream

_ONSETS = (
    *("b", "d", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "z"),
    *("br", "dr", "kl", "fl", "gr", "tr", "sh", "th", "ch"),
)
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "io", "ua")
_CODAS = ("", "", "n", "l", "r", "s", "m", "k", "th", "x")


def _pick(options: tuple[str, ...], generator: torch.Generator) -> str:
    return options[int(torch.randint(len(options), (1,), generator=generator))]


def invented_names(count: int, seed: int, taken: set[str]) -> list[str]:
    """`count` different names of two syllables (4 letters or more), none of them in `taken`."""
    generator = stream(seed, "names")
    names: dict[str, None] = {}
    while len(names) < count:
        name = _pick(_ONSETS, generator) + _pick(_VOWELS, generator)
        name += _pick(_ONSETS, generator) + _pick(_VOWELS, generator) + _pick(_CODAS, generator)
        if len(name) >= 4 and name not in taken:
            names[name] = None
    return list(names)


def named_seeds(names: list[str]) -> dict[str, int]:
    """Name -> seed of the identity of class person that bears it."""
    return {name: NAMED_FROM + index for index, name in enumerate(names)}
