"""What an attacked model shows on the way: pictures at every budget, and no weights kept.

stops/<budget>/    pictures of the model after budget × steps, in the picture cache's format

The pictures are those that `apdm evaluate` draws with the same settings. At the last budget none
are drawn here: its artifact stays, and any picture can be drawn from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.picture_cache import ABOUT, Order, gallery
from apdm_cli.diffusion.pictures import read_png
from apdm_cli.diffusion.sampling import SamplerSettings
from apdm_cli.errors import ApdmError
from apdm_cli.runs.manifest import read_json

STOPS = "stops"
SAVED = "stopped"  # what the attacked model is saved to while it is looked at


@dataclass(frozen=True)
class Drawing:
    """Which pictures of an attacked model are looked at.

    Attributes:
        templates: a prompt per picture, in which {} stands for the subject ("sks person").
        seeds: as many.
        sampler: how a model is drawn with; the batch size changes no picture.
        asked: what was asked of the sampler by name; the rest follows the model.
    """

    templates: tuple[str, ...]
    seeds: tuple[int, ...]
    sampler: Callable[[DiffusionModel], SamplerSettings]
    asked: Mapping[str, Any] = field(default_factory=dict)

    def order(self, model: DiffusionModel, word: str, class_noun: str) -> Order:
        """The pictures of `model` for a subject that `word` stands for."""
        subject = f"{word} {class_noun}".strip()
        prompts = tuple(template.replace("{}", subject) for template in self.templates)
        return Order({}, prompts, self.seeds, self.sampler(model), model.dtype)

    def describe(self, model: DiffusionModel) -> dict[str, Any]:
        """For a manifest: everything that the pictures depend on, beside the weights."""
        return {
            "templates": list(self.templates),
            "seeds": list(self.seeds),
            "sampler": self.sampler(model).model_dump(exclude={"batch_size"}),
            "asked": dict(self.asked),
        }

    def is_that_of(self, recorded: Mapping[str, Any] | None) -> bool:
        """Whether a cell's pictures, as `describe` said, are these; without loading its model."""
        if recorded is None:
            return False
        drawn, asked = recorded["sampler"], recorded["asked"]
        return (
            (recorded["templates"], recorded["seeds"]) == (list(self.templates), list(self.seeds))
            and all(drawn.get(name) == value for name, value in self.asked.items())
            and set(asked) <= set(self.asked)
        )


def stop_folder(cell: Path, budget: float) -> Path:
    """Where a cell keeps the pictures of a budget: `stops/0.5`, `stops/1`, ..."""
    return cell / STOPS / f"{budget:g}"


def is_drawn(folder: Path, order: Order) -> bool:
    """Whether `folder` holds every picture of `order`, whole."""
    try:
        same = read_json(folder / ABOUT) == order.description
    except ApdmError:
        return False
    files = (folder / f"{index:04d}.png" for index in range(len(order.prompts)))
    return same and all(read_png(file) is not None for file in files)


def read_stop(folder: Path, order: Order) -> Tensor:
    """The pictures of a budget, uint8 (N, R, R, 3).

    Raises:
        ApdmError: they were drawn with other settings, or one is missing or damaged. The weights
            are gone, so that they cannot be drawn again without the attack.
    """

    def gone() -> DiffusionModel:
        raise ApdmError(f"{folder} changed while it was read", "Run the command again.")

    if not is_drawn(folder, order):
        raise ApdmError(
            f"{folder} does not hold the pictures that are asked for",
            "They are drawn during the attack, whose weights are gone. Evaluate with the settings "
            "that they were drawn with (--prompts, --images, --sampler, --steps, --guidance, "
            "--dtype), or give apdm attack the new ones (there --steps is --sampler-steps) and "
            "--rerun.",
        )
    return gallery(order, folder, gone)
