"""An attacker who searches the learning rate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from apdm_attacks.composed import Composed, ComposedConfig
from apdm_attacks.halving import Point, halve, logarithmic_grid
from apdm_attacks.trial import trial

if TYPE_CHECKING:
    from apdm_cli.plugin import Artifact, Bench, Personalization


class AdaptiveLRConfig(ComposedConfig):
    """The options of the searched attack, and those of the search."""

    steps: int = Field(3200, ge=1, description="optimizer steps of the whole search")
    learning_rate: float = Field(1e-6, gt=0, description="lowest rate of the logarithmic grid")
    highest: float = Field(1e-3, gt=0, description="highest rate of the grid")
    rates: int = Field(8, ge=1, description="how many rates the grid has; a power of two")
    pictures: int = Field(4, ge=1, description="pictures drawn to judge a point")


class AdaptiveLR(Composed):
    """Searches the learning rate by successive halving, like a real attacker.

    Every rung gets the same share of the budget and half of the points. A point is judged by what
    the attacker has: similarity of a few pictures to the photos where an extractor is installed,
    else the loss on a photo that was held out. The last point trains on all photos. Budgets
    multiply the steps of the whole search, so that each is a search of its own.
    """

    name = "adaptive-lr"
    Config = AdaptiveLRConfig
    profiles: ClassVar = {
        "pocket": {"steps": 300, "learning_rate": 5e-5, "highest": 1e-3, "rates": 4}
    }

    def run(self, bench: Bench, config: Any) -> Artifact:
        """The rungs, from many short trainings to one long one."""
        attack = bench.attack(config.attack)

        def attempt(rate: float, steps: int, last: bool) -> tuple[Point, Personalization]:
            bench.restart()
            one = config.model_copy(update={"steps": steps, "learning_rate": rate})
            tried = bench.personalization(attack, one)
            label = f"{rate:.1e} for {steps}"
            scored = trial(bench, tried, label, config.pictures, last=last)
            return {"value": rate, "steps": steps, **scored}, tried

        rates = logarithmic_grid(config.learning_rate, config.highest, config.rates)
        found, points = halve(rates, config.steps, attempt)
        bench.results |= {"tried": points, "learning_rate": points[-1]["value"]}
        return found.save(bench.artifact_folder)
