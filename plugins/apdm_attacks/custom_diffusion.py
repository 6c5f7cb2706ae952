"""Custom Diffusion, arXiv 2212.04488."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from apdm_attacks.components import POCKET
from apdm_cli.plugin import Attack, AttackConfig

if TYPE_CHECKING:
    from apdm_attacks.keys_values import KeysValues
    from apdm_cli.diffusion.model import DiffusionModel
    from apdm_cli.subject import Subject


class CustomDiffusionConfig(AttackConfig):
    """diffusers' example: 1e-5 × batch 2 × 2 for the prior, 250 steps for one concept."""

    steps: int = Field(250, ge=1, description="optimizer steps")
    learning_rate: float = Field(4e-5, gt=0, description="of the optimizer")
    batch_size: int = Field(2, ge=1, description="photos a step (and as many class pictures)")
    token: str = Field("<new1>", pattern=r"^<[a-z0-9*-]+>$", description="the modifier token")
    initializer: str = Field("", description="where it starts; empty is the identifier")


class CustomDiffusion(Attack):
    """Trains keys and values of cross-attention and a new word in front of the class noun.

    The second attack of arXiv 2511.01307.
    """

    name = "custom-diffusion"
    leaves_network = True
    leaves_displacement = False
    Config = CustomDiffusionConfig
    profiles: ClassVar = {"pocket": {**POCKET, "steps": 150, "learning_rate": 1e-3}}

    def trainable(self, model: DiffusionModel, subject: Subject, config: Any) -> KeysValues:
        """Copies of the key and value projections, and the modifier token."""
        from apdm_attacks.keys_values import KeysValues
        from apdm_attacks.tokens import NewToken

        start = config.initializer or subject.identifier
        new = NewToken(model, config.token, 1, start, keep_norm=False)
        return KeysValues(model, subject, new)
