"""An attacker who searches the learning rate."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from pydantic import Field

from apdm_attacks.dreambooth import DreamBooth
from apdm_attacks.halving import Point, halve, logarithmic_grid
from apdm_attacks.lora import Lora, LoraAttackConfig
from apdm_attacks.parts import POCKET
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.extension.attack import Artifact, Attack, Trainable
from apdm_cli.harness.workbench import Workbench
from apdm_cli.personalization.loop import NonFiniteLoss
from apdm_cli.subject import Subject

METHODS: dict[str, Attack] = {"dreambooth": DreamBooth(), "lora": Lora()}


class AdaptiveLRConfig(LoraAttackConfig):
    """The options of the method, and those of the search; `steps` is the whole budget."""

    steps: int = Field(3200, ge=1, description="optimizer steps of the whole search")
    learning_rate: float = Field(1e-6, gt=0, description="lowest rate of the logarithmic grid")
    highest: float = Field(1e-3, gt=0, description="highest rate of the grid")
    rates: int = Field(8, ge=1, description="how many rates the grid has; a power of two")
    pictures: int = Field(4, ge=1, description="pictures drawn to judge a point")
    method: Literal["dreambooth", "lora"] = Field("dreambooth", description="what is trained")


class AdaptiveLR(Attack):
    """Searches the learning rate by successive halving, like a real attacker.

    Every rung gets the same share of the budget and half of the points. A point is judged by what
    the attacker has: similarity of a few pictures to the photos where an extractor is installed,
    else the loss on a photo that was held out. The last point trains on all photos.
    """

    name = "adaptive-lr"
    Config = AdaptiveLRConfig
    profiles: ClassVar = {
        "pocket": {**POCKET, "steps": 300, "learning_rate": 5e-5, "highest": 1e-3, "rates": 4}
    }

    def trainable(self, model: DiffusionModel, subject: Subject, config: Any) -> Trainable:
        """That of the method."""
        return METHODS[config.method].trainable(model, subject, config)

    def run(self, bench: Workbench, config: Any) -> Artifact:
        """The rungs, from many short trainings to one long one."""
        rates = logarithmic_grid(config.learning_rate, config.highest, config.rates)

        def attempt(rate: float, steps: int, last: bool) -> tuple[Point, Trainable]:
            return self._attempt(bench, config, rate, steps, last)

        trainable, points = halve(rates, config.steps, attempt)
        bench.results |= {"tried": points, "learning_rate": points[-1]["value"]}
        return trainable.save(bench.artifact_folder)

    def _attempt(
        self, bench: Workbench, config: Any, rate: float, steps: int, last: bool
    ) -> tuple[Point, Trainable]:
        trainable = self.trainable(bench.restart(), bench.subject, config)
        one = config.model_copy(update={"steps": steps, "learning_rate": rate})
        held_out, rest = bench.photos.split_off(0 if last else 1)
        point: Point = {"value": rate, "steps": steps, "score": -math.inf}
        try:
            label = f"{rate:.1e} for {steps}"
            bench.personalize(trainable, one, lambda _: rate, label=label, photos=rest)
        except NonFiniteLoss:
            if last:
                raise
            return point, trainable
        similarity = bench.similarity_of(trainable, one, config.pictures)
        loss = bench.validation_loss(trainable, one, held_out) if len(held_out) else None
        score = similarity if similarity is not None else -(loss or 0.0)
        return point | {"similarity": similarity, "held_out_loss": loss, "score": score}, trainable
