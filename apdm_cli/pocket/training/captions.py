"""Which picture with which caption: the mixture that the denoiser is trained on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from apdm_cli.pocket.training.pictures import Group
from apdm_cli.pocket.training.tokenizer import IDENTIFIERS

NAMED, PEOPLE, PETS = 0.42, 0.44, 0.14  # shares of the batch
PLAIN = 0.25  # of people and pets: "a photo of person"
PORTRAIT = 0.15  # "a portrait of" instead of "a photo of"
EMPTY = 0.10  # for classifier-free guidance


@dataclass(frozen=True)
class Example:
    """Row `row` of the flat picture table, and the words that go with it."""

    row: int
    caption: str


def _choose(u: float, n: int) -> int:
    return min(int(u * n), n - 1)


def described(class_noun: str, phrases: tuple[str, ...], order: Tensor, count: int) -> str:
    """ "person with red hair and round glasses": `count` phrases in the order of `order`."""
    chosen = [phrases[i] for i in order[: len(phrases)].argsort().tolist()][:count]
    return f"{class_noun} with {' and '.join(chosen)}"


def draw(
    groups: dict[str, Group], count: int, generator: torch.Generator, identifiers: float = 0.0
) -> list[Example]:
    """`count` examples of the mixture, captions never empty (`drop` does that).

    A share `identifiers` of people and pets, in [0, 1 - PLAIN], is called by one of the
    identifiers, as in "a photo of sks person", whoever it is: rare words that mean nobody.
    """
    uniform = torch.rand(count, 16, generator=generator)
    return [_example(groups, row, identifiers) for row in uniform]


def _example(groups: dict[str, Group], u: Tensor, identifiers: float) -> Example:
    kind, who, which, form, opening, many, pet = u[:7].tolist()
    start = "a portrait of" if opening < PORTRAIT else "a photo of"
    if kind < NAMED:
        group = groups["named"]
        person = _choose(who, group.identities)
        row = group.start + person * group.photos + _choose(which, group.photos)
        return Example(row, f"{start} {group.names[person]} person")
    group = groups["people" if kind < NAMED + PEOPLE else "dog" if pet < 0.5 else "cat"]
    individual = _choose(who, group.identities)
    row = group.start + individual * group.photos + _choose(which, group.photos)
    noun, phrases = group.class_noun, group.phrases[individual]
    if PLAIN <= form < PLAIN + identifiers:
        word = IDENTIFIERS[_choose((form - PLAIN) / identifiers, len(IDENTIFIERS))]
        return Example(row, f"{start} {word} {noun}")
    if form < PLAIN or not phrases:
        return Example(row, f"{start} {noun}")
    count = 1 + _choose(many, min(4, len(phrases)))
    return Example(row, f"{start} {described(noun, phrases, u[7:], count)}")


def drop(examples: list[Example], generator: torch.Generator) -> list[Example]:
    """Replaces a share `EMPTY` of the captions by the empty one."""
    keep = torch.rand(len(examples), generator=generator) >= EMPTY
    return [e if k else Example(e.row, "") for e, k in zip(examples, keep.tolist(), strict=True)]
