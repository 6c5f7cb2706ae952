"""Which picture with which caption: the mixture that the denoiser is trained on.

A few dozen captions a step are put together as they are needed. A GPU asks for hundreds of
thousands a second: there a stage of its own writes banks of them, which steps draw from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pocket_training import tokenizer
from pocket_training.pictures import Group, groups
from pocket_training.plan import Plan
from pocket_training.streams import stream
from pocket_training.tokenizer import IDENTIFIERS
from pocket_training.workshop import Workshop

NAMED, PEOPLE, PETS = 0.42, 0.44, 0.14  # shares of the batch
PLAIN = 0.25  # of people and pets: "a photo of person"
PORTRAIT = 0.15  # "a portrait of" instead of "a photo of"
EMPTY = 0.10  # for classifier-free guidance
SHARE_OF_IDENTIFIERS = 0.25  # of people and pets, in the last stage
CHUNK = 5000  # examples that a process draws at a time


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


@dataclass(frozen=True)
class Mixture:
    """A mixture by name. `names` limits the named persons drawn from to so many (None: all)."""

    name: str
    names: int | None = None
    identifiers: float = 0.0
    droppable: bool = True

    def blocks(self, plan: Plan) -> dict[str, Group]:
        """Whom the mixture draws from. Names that are left out keep their tokens."""
        blocks = groups(plan)
        if self.names is not None:
            blocks["named"] = replace(blocks["named"], identities=self.names)
        return blocks


def mixtures(plan: Plan) -> dict[str, Mixture]:
    """The mixtures of the stages that read captions."""
    return {
        "text": Mixture("text", droppable=False),
        "denoiser": Mixture("denoiser", plan.names_drawn),
        "identifiers": Mixture("identifiers", plan.names_drawn, SHARE_OF_IDENTIFIERS),
    }


def tokens_of(examples: list[Example], names: tuple[str, ...]) -> Tensor:
    """Token ids of the examples' captions, int64 (n, `tokenizer.MAX_LENGTH`)."""
    return torch.tensor([tokenizer.encode(e.caption, names) for e in examples])


def source(
    shop: Workshop, mixture: Mixture, batch: int
) -> Callable[[torch.Generator], tuple[Tensor, Tensor]]:
    """Draws rows (batch,) of the picture table and token ids (batch, length) from a generator."""
    blocks = mixture.blocks(shop.plan)
    names = tuple(blocks["named"].names)
    if not shop.plan.caption_bank:
        return partial(_drawn, blocks, names, mixture, batch, shop.device)
    bank = torch.from_numpy(np.load(shop.path(f"captions_{mixture.name}.npy"))).to(shop.device)
    empty = tokens_of([Example(0, "")], names).to(shop.device) if mixture.droppable else None
    return partial(_banked, bank, empty, batch)


def _drawn(
    blocks: dict[str, Group], names: tuple[str, ...], mixture: Mixture, batch: int, device: str,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    if generator.device.type != "cpu":
        generator = stream(generator.initial_seed(), "captions")
    examples = draw(blocks, batch, generator, mixture.identifiers)
    spoken = drop(examples, generator) if mixture.droppable else examples
    rows = torch.tensor([example.row for example in examples])
    return rows.to(device), tokens_of(spoken, names).to(device)


def _banked(
    bank: Tensor, empty: Tensor | None, batch: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    device = bank.device
    chosen = bank[torch.randint(len(bank), (batch,), generator=generator, device=device)].long()
    rows, tokens = chosen[:, 0], chosen[:, 1:]
    if empty is not None:
        kept = torch.rand(batch, 1, generator=generator, device=device) >= EMPTY
        tokens = torch.where(kept, tokens, empty)
    return rows, tokens


# The blocks of each mixture: whose traits are whose is worked out once, for all processes.
_BLOCKS: dict[str, dict[str, Group]] = {}


def _know(blocks: dict[str, dict[str, Group]]) -> None:
    torch.set_num_threads(1)  # every core has a process already
    _BLOCKS.update(blocks)


def _chunk(job: tuple[Plan, Mixture, int]) -> np.ndarray:
    """int32 (CHUNK, 1 + length): rows of the picture table, and the token ids of captions."""
    plan, mixture, number = job
    blocks = _BLOCKS[mixture.name]
    generator = stream(plan.seed, f"captions/{mixture.name}/{number}")
    examples = draw(blocks, min(CHUNK, plan.caption_bank), generator, mixture.identifiers)
    tokens = tokens_of(examples, tuple(blocks["named"].names))
    rows = torch.tensor([example.row for example in examples])
    return torch.cat([rows[:, None], tokens], 1).to(torch.int32).numpy()


def write_banks(shop: Workshop) -> dict[str, Any]:
    """The stage: `captions_<mixture>.npy`, `plan.caption_bank` examples each, if the plan has any.

    No caption is empty there: `EMPTY` of them are dropped when a batch is drawn.
    """
    if not shop.plan.caption_bank:
        return {"examples": 0}
    chunks = -(-shop.plan.caption_bank // CHUNK)
    wanted = mixtures(shop.plan)
    blocks = {name: mixture.blocks(shop.plan) for name, mixture in wanted.items()}
    with get_context("spawn").Pool(shop.cores, _know, (blocks,)) as pool:
        for name, mixture in wanted.items():
            jobs = [(shop.plan, mixture, number) for number in range(chunks)]
            np.save(shop.path(f"captions_{name}.npy"), np.concatenate(pool.map(_chunk, jobs)))
    return {"examples": shop.plan.caption_bank, "mixtures": len(wanted)}
