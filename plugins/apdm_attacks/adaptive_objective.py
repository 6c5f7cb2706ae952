"""An attacker who knows the defence and trains differently."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from apdm_attacks.components import POCKET, Components
from apdm_attacks.variants import Variant, changed_settings, move_start
from apdm_cli.plugin import Attack, AttackConfig, Bench

if TYPE_CHECKING:
    from apdm_cli.diffusion.model import DiffusionModel
    from apdm_cli.subject import Subject


class AdaptiveObjectiveConfig(AttackConfig):
    """DreamBooth's options, and which of them the attacker turns."""

    variant: Variant = Field("no-prior", description="what is done differently")
    words: str = Field("smiling", description="description: words instead of the identifier")
    amount: float = Field(
        0.5, ge=0, le=1, description="weight-noise: relative size × 0.1; interpolate: share"
    )


class AdaptiveObjective(Attack):
    """DreamBooth by somebody who knows the defence: another loss, optimizer, prompt or start.

    The variants are the durability lessons of arXiv 2412.07097: a safeguard that only holds
    against one implementation with one setting does not hold.
    """

    name = "adaptive-objective"
    Config = AdaptiveObjectiveConfig
    profiles: ClassVar = {"pocket": POCKET}

    def trainable(self, model: DiffusionModel, subject: Subject, config: Any) -> Components:
        """All weights of the denoiser, called by the variant's word."""
        words = {"class-prompt": "", "description": config.words}
        word = words.get(config.variant, subject.identifier)
        return Components(model, replace(subject, identifier=word))

    def learning_rate(self, step: int, config: Any) -> float:
        """As configured; "warm-up" rises over a tenth of the steps and falls along a cosine."""
        if config.variant != "warm-up":
            return super().learning_rate(step, config)
        rise = min(1.0, (step + 1) / max(1, config.steps // 10))
        return config.learning_rate * rise * (1 + math.cos(math.pi * step / config.steps))

    def continues(self, config: Any) -> bool:
        """All but those whose rate falls towards the last step."""
        return bool(config.variant != "warm-up" and config.schedule == "constant")

    def prepare(self, bench: Bench, config: Any) -> Any:
        """Change the start or the options as the variant says."""
        move_start(bench, config.variant, config.amount)
        return config.model_copy(update=changed_settings(bench, config))
