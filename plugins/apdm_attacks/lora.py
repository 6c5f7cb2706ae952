"""Low-rank adapters: LoRA, DoRA, LoHa and LoKr through peft."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from apdm_attacks.components import POCKET, require_text_encoder
from apdm_cli.errors import ApdmError
from apdm_cli.plugin import Attack, AttackConfig, Trainable

if TYPE_CHECKING:
    from apdm_attacks.adapters import Adapter
    from apdm_cli.diffusion.model import DiffusionModel
    from apdm_cli.subject import Subject


class LoraAttackConfig(AttackConfig):
    """diffusers' LoRA DreamBooth example: rank 4, 1e-4, attention projections."""

    later: ClassVar = AttackConfig.later | {
        *("feed_forward", "projections", "time_embedding", "convolution_rank", "init", "factor"),
        "text_learning_rate",
    }

    learning_rate: float = Field(1e-4, gt=0, description="of the optimizer")
    rank: int = Field(4, ge=1, description="rank of the adapters")
    alpha: float = Field(4, gt=0, description="the adapter is scaled by alpha / rank")
    variant: Literal["lora", "dora", "loha", "lokr"] = Field("lora", description="adapter kind")
    convolutions: bool = Field(False, description="also adapt the residual blocks' convolutions")
    convolution_rank: int = Field(
        0, ge=0, description="their rank, at the same alpha / rank; 0 is that of the others"
    )
    feed_forward: bool = Field(False, description="also adapt the linear layers between attentions")
    projections: bool = Field(
        False, description="also adapt the layers into and out of the blocks of attention"
    )
    time_embedding: bool = Field(False, description="also adapt the timestep's layers")
    init: Literal["gaussian", "kaiming"] = Field(
        "gaussian", description="how adapters start; kaiming is LoRA's own, which most tools use"
    )
    factor: int = Field(
        -1, ge=-1, description="lokr: size of the smaller factor; -1 is as square as it can be"
    )
    text_encoder: bool = Field(False, description="also adapt the text encoder; lora and dora")
    text_learning_rate: float = Field(
        0.0, ge=0, description="of the text encoder's adapters; 0 is learning_rate"
    )
    export: Literal["diffusers", "kohya"] = Field(
        "diffusers", description="kohya is what other tools read; lora only"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.text_encoder and self.variant in ("loha", "lokr"):
            raise ValueError(f"text_encoder is not for the variant {self.variant}")
        if self.text_learning_rate and not self.text_encoder:
            raise ValueError("text_learning_rate is for text_encoder=true")
        if self.text_learning_rate and self.optimizer == "prodigy":
            raise ValueError("text_learning_rate: prodigy has one rate for everything")
        if self.export == "kohya" and self.variant != "lora":
            raise ValueError("export: kohya is for the variant lora only")
        if self.convolution_rank and self.variant in ("loha", "lokr"):
            raise ValueError(f"convolution_rank is not for the variant {self.variant}")
        if self.convolution_rank and self.export == "kohya":
            raise ValueError("export: kohya is for adapters of one rank")
        return self


class Lora(Attack):
    """Trains low-rank adapters on the attention projections: what most people use.

    Sources: LoRA arXiv 2106.09685, DoRA 2402.09353, LoHa 2108.06098 and LoKr 2309.14859.
    """

    name = "lora"
    leaves_network = True
    Config = LoraAttackConfig
    profiles: ClassVar = {"pocket": {**POCKET, "rank": 8, "alpha": 8, "learning_rate": 2e-3}}

    def trainable(self, model: DiffusionModel, subject: Subject, config: Any) -> Trainable:
        """Adapters of the chosen kind around frozen weights."""
        return self.adapter(model, subject, config)

    def adapter(self, model: DiffusionModel, subject: Subject, config: Any) -> Adapter:
        """See `trainable`."""
        from apdm_attacks.adapters import Adapter, peft_config

        family, where = model.family, model.family.adapter_targets
        if config.export not in family.lora_layouts:
            raise ApdmError(
                f"lora.export: adapters of {family.title} are not written for {config.export}",
                f"Use {' or '.join(family.lora_layouts)}.",
            )
        require_text_encoder(family, "lora.text_encoder", config.text_encoder)
        targets = where.attention
        for option in ("convolutions", "feed_forward", "projections", "time_embedding"):
            if getattr(config, option):
                if not getattr(where, option):
                    raise ApdmError(f"lora.{option}: {family.title} has none", "Leave it out.")
                targets += getattr(where, option)
        lower = where.convolutions if config.convolution_rank and config.convolutions else ()
        adapter = peft_config(config, targets, lower, config.convolution_rank)
        text = None
        if config.text_encoder:
            text = peft_config(config, where.text_layers(feed_forward=config.feed_forward))
        rate = (config.text_learning_rate or config.learning_rate) / config.learning_rate
        return Adapter(model, subject, config.variant, adapter, text, config.export, rate)
