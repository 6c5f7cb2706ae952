"""Textual inversion, arXiv 2208.01618."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from apdm_attacks.components import POCKET
from apdm_cli.plugin import Attack, AttackConfig

if TYPE_CHECKING:
    from apdm_attacks.tokens import Embedding
    from apdm_cli.diffusion.model import DiffusionModel
    from apdm_cli.subject import Subject


class TextualInversionConfig(AttackConfig):
    """diffusers' example: 5e-4 × batch 4; no prior preservation, since no weight changes."""

    steps: int = Field(3000, ge=1, description="optimizer steps")
    learning_rate: float = Field(2e-3, gt=0, description="of the optimizer")
    batch_size: int = Field(4, ge=1, description="photos a step")
    prior_weight: float = Field(0.0, ge=0, description="weight of prior preservation; 0 is off")
    weight_decay: float = Field(0.0, ge=0, description="of the optimizer")
    vectors: int = Field(1, ge=1, le=16, description="how many vectors the new word has")
    token: str = Field("<subject>", pattern=r"^<[a-z0-9*-]+>$", description="the new word")
    initializer: str = Field("", description="where it starts; empty is the class noun")
    keep_norm: bool = Field(True, description="keep the initializer's length")


class TextualInversion(Attack):
    """Learns one new word for the subject and leaves every weight as it is.

    The smallest attack: it finds what the model can still draw, and shares as a file of kilobytes.
    """

    name = "textual-inversion"
    leaves_network = True
    leaves_displacement = False
    Config = TextualInversionConfig
    profiles: ClassVar = {
        "pocket": {
            **POCKET,
            "steps": 200,
            "learning_rate": 5e-2,
            "prior_weight": 0.0,
            "vectors": 2,
        }
    }

    def trainable(self, model: DiffusionModel, subject: Subject, config: Any) -> Embedding:
        """The vectors of a new word."""
        from apdm_attacks.tokens import Embedding, NewToken

        start = config.initializer or subject.class_noun
        new = NewToken(model, config.token, config.vectors, start, config.keep_norm)
        return Embedding(model, subject, new)
