"""An attacker who searches what to train, how fast and how long, all at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, PositiveInt

from apdm_attacks.components import POCKET
from apdm_attacks.targets import Target
from apdm_cli.plugin import Attack, AttackConfig, Trainable

if TYPE_CHECKING:
    from apdm_cli.diffusion.model import DiffusionModel
    from apdm_cli.plugin import Artifact, Bench
    from apdm_cli.subject import Subject


class AdaptiveConfig(AttackConfig):
    """The options of every training, and those of the search."""

    steps: int = Field(4800, ge=1, description="optimizer steps of the whole search")
    learning_rate: float = Field(1e-6, gt=0, description="lowest rate for the weights themselves")
    highest: float = Field(5e-5, gt=0, description="highest rate for the weights themselves")
    adapter_rates: float = Field(20, gt=0, description="how many times higher those of LoRA are")
    ranks: tuple[PositiveInt, ...] = Field((4, 16, 64), min_length=1, description="ranks of LoRA")
    targets: tuple[Target, ...] = Field((), description="what may train; empty is all there is")
    candidates: int = Field(16, ge=1, description="how many combinations are tried")
    eta: int = Field(2, ge=2, description="one in so many goes on to the next, longer try")
    pictures: int = Field(4, ge=1, description="pictures drawn to judge a point")


class Adaptive(Attack):
    """Searches rate, steps, rank and what is trained together, by successive halving.

    Every rung gets the same share of the steps. A point is judged as in adaptive-lr, by what an
    attacker has. The best of all points, short ones included, trains once more, on all photos.
    All steps count, and budgets multiply them, so that each is a search of its own.
    """

    name = "adaptive"
    Config = AdaptiveConfig
    profiles: ClassVar = {
        "pocket": {
            **POCKET,
            **{"steps": 600, "learning_rate": 5e-5, "highest": 1e-3, "candidates": 8},
        }
    }

    def trainable(self, model: DiffusionModel, subject: Subject, config: Any) -> Trainable:
        """Other attacks train, never this one."""
        raise NotImplementedError(f"{self.name} trains through other attacks")

    def run(self, bench: Bench, config: Any) -> Artifact:
        """The search, and the training that it chose."""
        from apdm_attacks.search import joint_search

        return joint_search(bench, config)
