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
PER_TOPIC = 3  # sets of pictures
Draw = Callable[[ArmName, Sequence[str], Sequence[int], str], tuple[Tensor, str]]
Drawn = tuple[ArmName, tuple[str, ...], tuple[int, ...], str]  # arm, prompts, seeds, label


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


def sets_of(topic: Topic, seed: int = 0) -> tuple[Drawn, Drawn, Drawn]:
    """What is drawn for a topic: the original (seeds A), and the original and θ̂ (both seeds B)."""
    count = len(topic.prompts)
    a, b = seeds(SEEDS_A, count, seed), seeds(SEEDS_B, count, seed)
    return (
        ("original", topic.prompts, a, f"{topic.name}, original"),
        ("original", topic.prompts, b, f"{topic.name}, original, other seeds"),
        ("protected", topic.prompts, b, f"{topic.name}, protected"),
    )


def utility_rows(topic: Topic, draw: Draw, panel: Panel, seed: int = 0) -> list[ScoreRow]:
    """Three rows: the original (seeds A, the reference), the original and θ̂ (both seeds B).

    Args:
        draw: (arm, prompts, seeds, label) → pictures uint8 (N, R, R, 3), and their folder
            relative to the run.
    """
    first, second, third = sets_of(topic, seed)
    reference, reference_path = draw(*first)
    rows = [_row(topic, "original", f"{topic.name}, original", reference_path, ())]
    original, path = draw(*second)
    scores = panel.scores(Pictures(images=original, prompts=topic.prompts, reference=reference))
    rows.append(_row(topic, "original", f"{topic.name}, original, other seeds", path, scores))
    protected, path = draw(*third)
    scores = panel.scores(
        Pictures(images=protected, prompts=topic.prompts, reference=reference, pairs=original)
    )
    rows.append(_row(topic, "protected", f"{topic.name}, protected", path, scores))
    return rows


def _row(
    topic: Topic, arm: ArmName, label: str, images: str, scores: tuple[Score, ...]
) -> ScoreRow:
    return ScoreRow(
        role="utility",
        arm=arm,
        topic=topic.name,
        label=label,
        images=images,
        prompts=topic.prompts,
        scores=scores,
    )
