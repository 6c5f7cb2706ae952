"""DreamBooth with the text encoder, as in diffusers' example (`--train_text_encoder`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from apdm_attacks.components import POCKET, Components
from apdm_cli.plugin import Attack, AttackConfig

if TYPE_CHECKING:
    from apdm_cli.diffusion.model import DiffusionModel
    from apdm_cli.subject import Subject


class TextConfig(AttackConfig):
    """diffusers' DreamBooth guide: 2e-6 when the text encoder trains as well."""

    learning_rate: float = Field(2e-6, gt=0, description="of the optimizer")


class DreamBoothText(Attack):
    """Fine-tunes the denoiser and the text encoder together, with prior preservation.

    Stands for the stronger DreamBooth that diffusers' guide recommends for faces. Weights of the
    text encoder that protection never touched give the attacker a second way in.
    """

    name = "dreambooth-text"
    Config = TextConfig
    profiles: ClassVar = {"pocket": POCKET}

    def trainable(self, model: DiffusionModel, subject: Subject, config: Any) -> Components:
        """All weights of the denoiser and of the text encoders."""
        return Components(model, subject, with_text=True)
