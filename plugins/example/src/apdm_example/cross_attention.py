"""An attack in a few lines: say which parameters train, and how they are saved."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field
from torch import nn

from apdm_cli.plugin import Artifact, Attack, AttackConfig, Trainable


class CrossAttentionConfig(AttackConfig):
    """AttackConfig's options (steps, learning_rate, ...) and one of our own."""

    learning_rate: float = Field(1e-5, gt=0, description="of the optimizer")
    layers: str = Field("attn2", description="part of the names of the trained layers")


@dataclass
class Layers(Trainable):
    """The trained part: what trains, and how it is saved."""

    layers: str

    def parameters(self) -> Sequence[nn.Parameter]:
        """The weights of the chosen layers; everything else stays frozen."""
        named = self.model.trained.named_parameters()
        return [weight for name, weight in named if self.layers in name]

    def save(self, folder: Path) -> Artifact:
        """A diffusers folder, which replaces that component of the attacked model."""
        family = self.model.family
        family.save_component(self.model.trained, folder / family.trained)
        return Artifact("pipeline", folder)


class CrossAttention(Attack):
    """Fine-tunes the cross-attention layers only."""

    name = "cross-attention"
    Config = CrossAttentionConfig
    profiles: ClassVar = {
        # Other defaults for the embedded model, which is small and learns fast.
        "pocket": {"steps": 100, "learning_rate": 5e-4, "batch_size": 4, "prior_pictures": 16}
    }

    def trainable(self, model: Any, subject: Any, config: CrossAttentionConfig) -> Layers:
        """`model` is this attack's own copy."""
        return Layers(model, subject, config.layers)
