"""Pivotal tuning: a new word and LoRA together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, model_validator

from apdm_attacks.lora import Lora, LoraAttackConfig

if TYPE_CHECKING:
    from apdm_attacks.pivot import Pivot
    from apdm_cli.diffusion.model import DiffusionModel
    from apdm_cli.subject import Subject


class PivotalTuningConfig(LoraAttackConfig):
    """LoRA's options and a new word's, as in diffusers' advanced DreamBooth LoRA scripts."""

    vectors: int = Field(2, ge=1, le=16, description="how many vectors the new word has")
    token: str = Field("<s0>", pattern=r"^<[a-z0-9*-]+>$", description="the new word")
    initializer: str = Field("", description="where it starts; empty is the class noun")
    keep_norm: bool = Field(False, description="keep the initializer's length")

    @model_validator(mode="after")
    def _opens_as_lora(self) -> Self:
        if self.variant in ("loha", "lokr"):
            raise ValueError("variant: pivotal tuning is for lora and dora")
        return self


class PivotalTuning(Lora):
    """Learns one new word and low-rank adapters at the same time.

    Source: cloneofsimo's lora (2023), which names it after arXiv 2106.05744, and diffusers'
    `examples/advanced_diffusion_training`. The word gives the adapters what they need to tell the
    subject from the class, and neither is limited to what the other can do alone.
    """

    name = "pivotal-tuning"
    leaves_network = True
    Config = PivotalTuningConfig
    profiles: ClassVar = Lora.profiles

    def trainable(self, model: DiffusionModel, subject: Subject, config: Any) -> Pivot:
        """The vectors of a new word, and the adapters."""
        from apdm_attacks.pivot import Pivot
        from apdm_attacks.tokens import NewToken

        start = config.initializer or subject.class_noun
        new = NewToken(model, config.token, config.vectors, start, config.keep_norm)
        return Pivot(model, subject, new, self.adapter(model, subject, config))
