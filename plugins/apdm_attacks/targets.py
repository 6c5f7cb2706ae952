"""What a search may train: all weights, some of them, or adapters on more and more layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

from apdm_attacks.components import Components
from apdm_attacks.dreambooth import DreamBooth
from apdm_attacks.lora import Lora, LoraAttackConfig
from apdm_cli.plugin import Attack, AttackConfig

if TYPE_CHECKING:
    from torch import nn

    from apdm_cli.diffusion.model import DiffusionModel
    from apdm_cli.subject import Subject

Target = Literal["full", "cross-attention", "lora", "lora-linear", "lora-convolutions"]
LINEAR = ("feed_forward", "projections")
ADAPTED: dict[Target, tuple[str, ...]] = {
    "lora": (),
    "lora-linear": LINEAR,
    "lora-convolutions": (*LINEAR, "convolutions", "time_embedding"),
}


class CrossAttention(DreamBooth):
    """DreamBooth on the layers that read the prompt, and on nothing else."""

    def trainable(self, model: DiffusionModel, subject: Subject, config: Any) -> Components:
        """Those weights alone; the whole denoiser is saved."""
        return Components(model, subject, trained=cross_attention(model.trained))


def cross_attention(network: nn.Module) -> list[nn.Parameter]:
    """Weights of the layers that a U-Net of diffusers calls attn2; none in other networks."""
    return [weight for name, weight in network.named_parameters() if ".attn2." in name]


def offered(model: DiffusionModel) -> tuple[Target, ...]:
    """The targets that `model` has; adapters on more layers only where there are more."""
    where = model.family.adapter_targets
    has = {
        "cross-attention": bool(cross_attention(model.trained)),
        "lora-linear": any(getattr(where, option) for option in LINEAR),
        "lora-convolutions": bool(where.convolutions),
    }
    return tuple(target for target in get_args(Target) if has.get(target, True))


def attack_on(target: Target, rank: int, common: AttackConfig, model: DiffusionModel) -> Any:
    """(the attack, its options) that train `target` with the options that every attack has."""
    attacks: dict[Target, Attack] = {"full": DreamBooth(), "cross-attention": CrossAttention()}
    if target in attacks:
        return attacks[target], common
    where = model.family.adapter_targets
    layers = {option: True for option in ADAPTED[target] if getattr(where, option)}
    return Lora(), LoraAttackConfig(**dict(common), rank=rank, alpha=rank, **layers)
