"""Undo first, then personalize."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from apdm_attacks.composed import Composed, ComposedConfig
from apdm_attacks.dreambooth import DreamBooth
from apdm_attacks.healed import KIND, on_healed, open_healed
from apdm_attacks.healing import heal

if TYPE_CHECKING:
    from apdm_cli.diffusion.model import DiffusionModel
    from apdm_cli.plugin import Artifact, Bench


class HealConfig(ComposedConfig):
    """The options of the attack that follows, and those of the healing before it."""

    heal_steps: int = Field(400, ge=1, description="optimizer steps before the personalization")
    heal_learning_rate: float = Field(5e-6, gt=0, description="of the healing")
    heal_pictures: int = Field(200, ge=1, description="class pictures to heal on, if drawn")
    heal_from: str = Field(
        "original",
        description="who draws them: original (where it is known), attacked, or a folder",
    )
    heal_caption: str = Field(
        "class", pattern="^(class|personal)$", description="class prompt, or the identifier's"
    )


class Heal(Composed):
    """Fine-tunes on pictures of other people to undo the protection, then runs DreamBooth.

    Stands for everybody who fine-tunes a protected model for another purpose first, on purpose or
    not. Idea: relearning attacks of arXiv 2408.00761 (TAR) and 2412.07097. Budgets multiply the
    steps of the personalization; the healing before it stays as it is.
    """

    name = "heal"
    Config = HealConfig
    kinds = (KIND,)
    profiles: ClassVar = {
        "pocket": {"heal_steps": 100, "heal_learning_rate": 1e-4, "heal_pictures": 64}
    }

    def total_steps(self, config: Any) -> int:
        """The healing's and the personalization's."""
        return int(config.heal_steps + config.steps)

    def continues(self, config: Any) -> bool:
        """Where the attack that follows is DreamBooth at a constant rate."""
        return bool(config.attack == DreamBooth.name and config.schedule == "constant")

    def run(self, bench: Bench, config: Any) -> Artifact:
        """The healing, with an optimizer of its own, and the attack on the same weights."""
        heal(bench, config)
        personalization = on_healed(bench, bench.attack(config.attack), config)
        bench.train(personalization, stops=bench.stops(config.steps))
        return personalization.save(bench.artifact_folder)

    def load(self, model: DiffusionModel, folder: Path) -> DiffusionModel:
        """The healed network, and the attack's artifact on top."""
        return open_healed(model, folder)
