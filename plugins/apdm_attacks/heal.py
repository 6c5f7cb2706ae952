"""Undo first, then personalize."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from apdm_attacks.parts import POCKET, Components
from apdm_cli.diffusion.latents import LatentDistribution
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.photos import load_photos
from apdm_cli.extension.attack import Artifact, Attack, AttackConfig
from apdm_cli.harness.workbench import Workbench
from apdm_cli.subject import Subject


class HealConfig(AttackConfig):
    """DreamBooth's options, and those of the healing before it."""

    heal_steps: int = Field(400, ge=1, description="optimizer steps before the personalization")
    heal_pictures: int = Field(200, ge=1, description="class pictures to heal on, if drawn")
    heal_from: str = Field(
        "original",
        description="who draws them: original (where it is known), attacked, or a folder",
    )
    heal_caption: str = Field(
        "class", pattern="^(class|personal)$", description="class prompt, or the identifier's"
    )


class Heal(Attack):
    """Fine-tunes on pictures of other people to undo the protection, then runs DreamBooth.

    Stands for everybody who fine-tunes a protected model for another purpose first, on purpose or
    not. Idea: relearning attacks of arXiv 2408.00761 (TAR) and 2412.07097.
    """

    name = "heal"
    Config = HealConfig
    profiles: ClassVar = {"pocket": {**POCKET, "heal_steps": 100, "heal_pictures": 64}}

    def trainable(self, model: DiffusionModel, subject: Subject, config: Any) -> Components:
        """All weights of the denoiser."""
        return Components(model, subject)

    def run(self, bench: Workbench, config: Any) -> Artifact:
        """Two phases on the same weights, each with an optimizer of its own."""
        # The healing has no class pictures beside it: these are what it trains on.
        healing = config.model_copy(update={"prior_weight": 0.0, "steps": config.heal_steps})
        word = "" if config.heal_caption == "class" else bench.subject.identifier
        other = replace(bench.subject, identifier=word)
        pictures = _pictures(bench, config)
        rate = config.learning_rate
        trainable = self.trainable(bench.model, other, config)
        bench.personalize(trainable, healing, lambda _: rate, label="heal", photos=pictures)
        return super().run(bench, config)


def _pictures(bench: Workbench, config: HealConfig) -> LatentDistribution:
    if config.heal_from in ("original", "attacked"):
        original = bench.load_original() if config.heal_from == "original" else None
        drawing = config.model_copy(update={"prior_pictures": config.heal_pictures})
        return bench.draw_class(original or bench.base, drawing)
    photos = load_photos([Path(config.heal_from)], bench.base.resolution)
    return bench.base.encode_pixels(photos.pixels)
