"""What protection cost everybody else: pictures of θ̂ against pictures of θ, no attack in between.

Seeds A and B: the original drawn with B against the original drawn with A is what two samples of
one and the same model differ by; the protected model drawn with B is held against that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from apdm_cli.evaluation.prompts import fill
from apdm_cli.extension.metric import Pictures
from apdm_cli.harness.arms import ArmName
from apdm_cli.scores import Score, ScoreRow

if TYPE_CHECKING:
    from apdm_cli.evaluation.scoring import Panel

# Far from the seeds of class pictures that protections and attacks draw for themselves.
SEEDS_A, SEEDS_B, SEEDS_ATTACK = 2_000, 2_001, 2_002
SEEDS_PER_SET = 1_000_000
Draw = Callable[[ArmName, Sequence[str], Sequence[int], str], tuple[Tensor, str]]


@dataclass(frozen=True)
class Topic:
    """Prompts without the subject: one per picture."""

    name: str
    prompts: tuple[str, ...]


def class_topic(class_noun: str, count: int, name: str = "class pictures") -> Topic:
    """Ordinary pictures of a class: "a photo of dog"."""
    return Topic(name, tuple(fill(["a photo of {}"], class_noun)) * count)


def seeds(block: int, count: int, seed: int = 0) -> tuple[int, ...]:
    """Seeds of `count` pictures; blocks and evaluation seeds never share one."""
    start = (block + 1_000 * seed) * SEEDS_PER_SET
    return tuple(range(start, start + count))


@dataclass(frozen=True)
class TopicSet:
    """Pictures of a topic by one model."""

    arm: ArmName
    seeds: tuple[int, ...]
    label: str


def topic_sets(topic: Topic, seed: int = 0) -> tuple[TopicSet, TopicSet, TopicSet]:
    """The original (seeds A, the reference), the original and θ̂ (both seeds B)."""
    count = len(topic.prompts)
    a, b = seeds(SEEDS_A, count, seed), seeds(SEEDS_B, count, seed)
    return (
        TopicSet("original", a, f"{topic.name}, original"),
        TopicSet("original", b, f"{topic.name}, original, other seeds"),
        TopicSet("protected", b, f"{topic.name}, protected"),
    )


def utility_rows(topic: Topic, draw: Draw, panel: Panel, seed: int = 0) -> list[ScoreRow]:
    """A row for each of `topic_sets`.

    Args:
        draw: (arm, prompts, seeds, label) → pictures uint8 (N, R, R, 3), and their folder
            relative to the run.
    """
    sets = topic_sets(topic, seed)
    (reference, first), (original, second), (protected, third) = (
        draw(one.arm, topic.prompts, one.seeds, one.label) for one in sets
    )
    scores = (
        (),
        panel.scores(Pictures(images=original, prompts=topic.prompts, reference=reference)),
        panel.scores(
            Pictures(images=protected, prompts=topic.prompts, reference=reference, pairs=original)
        ),
    )
    return [
        _row(topic, one, path, found)
        for one, path, found in zip(sets, (first, second, third), scores, strict=True)
    ]


def _row(topic: Topic, drawn: TopicSet, images: str, scores: tuple[Score, ...]) -> ScoreRow:
    return ScoreRow(
        role="utility",
        arm=drawn.arm,
        topic=topic.name,
        label=drawn.label,
        images=images,
        prompts=topic.prompts,
        scores=scores,
    )
