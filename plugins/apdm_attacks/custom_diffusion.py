"""Custom Diffusion, arXiv 2212.04488."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers.loaders.unet import CUSTOM_DIFFUSION_WEIGHT_NAME_SAFE
from diffusers.models.attention_processor import CustomDiffusionAttnProcessor
from pydantic import Field
from safetensors.torch import save_file
from torch import nn

from apdm_attacks.parts import POCKET
from apdm_attacks.textual_inversion import Embedding
from apdm_attacks.tokens import NewToken
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.errors import ApdmError
from apdm_cli.extension.attack import Artifact, Attack, AttackConfig
from apdm_cli.subject import Subject


class CustomDiffusionConfig(AttackConfig):
    """diffusers' example: 1e-5 × batch 2 × 2 for the prior, 250 steps for one concept."""

    steps: int = Field(500, ge=1, description="optimizer steps")
    learning_rate: float = Field(1e-5, gt=0, description="of the optimizer")
    batch_size: int = Field(2, ge=1, description="photos a step (and as many class pictures)")
    token: str = Field("<new1>", pattern=r"^<[a-z0-9*-]+>$", description="the modifier token")
    initializer: str = Field("", description="where it starts; empty is the identifier")


@dataclass
class KeysValues(Embedding):
    """The trained part: keys and values of cross-attention, and the modifier token."""

    def __post_init__(self) -> None:
        network: Any = self.model.trained
        if not hasattr(network, "attn_processors"):
            raise ApdmError(
                f"custom-diffusion replaces the attention processors of a U-Net, and "
                f"{self.model.family.title} has none"
            )
        processors = {name: _processor(network, name) for name in network.attn_processors}
        network.set_attn_processor(dict(processors))  # it empties the dict it is given
        self.processors = processors
        super().__post_init__()

    def parameters(self) -> Sequence[nn.Parameter]:
        """Keys and values, and the token's vector."""
        weights = [w for each in self.processors.values() for w in each.parameters()]
        return [*weights, self.new.vectors]

    def save(self, folder: Path) -> Artifact:
        """One file for `unet.load_attn_procs` and, in `tokens`, one for `load_textual_inversion`.

        diffusers' own `save_attn_procs` drops the layers without weights, which its loader then
        misses; an empty tensor under the layer's name is what that loader takes for them.
        """
        state: dict[str, torch.Tensor] = {}
        for name, processor in self.processors.items():
            weights = processor.state_dict()
            state |= {f"{name}.{key}": value.cpu().contiguous() for key, value in weights.items()}
            if not weights:
                state[name] = torch.zeros(0)
        save_file(state, folder / CUSTOM_DIFFUSION_WEIGHT_NAME_SAFE)
        self.new.save(folder / "tokens")
        return Artifact("custom-diffusion", folder)


class CustomDiffusion(Attack):
    """Trains keys and values of cross-attention and a new word in front of the class noun.

    The paper's other attack (METHOD.md: .2158 for persons, against .1375 by DreamBooth).
    """

    name = "custom-diffusion"
    Config = CustomDiffusionConfig
    profiles: ClassVar = {"pocket": {**POCKET, "steps": 150, "learning_rate": 1e-3}}

    def trainable(self, model: DiffusionModel, subject: Subject, config: Any) -> KeysValues:
        """Copies of the key and value projections, and the modifier token."""
        start = config.initializer or subject.identifier
        new = NewToken(model, config.token, 1, start, keep_norm=False)
        return KeysValues(model, subject, new)


def _processor(network: Any, name: str) -> CustomDiffusionAttnProcessor:
    """Trains keys and values where `name` is a cross-attention, nothing where it is not."""
    attention = network.get_submodule(name.removesuffix(".processor"))
    if not name.endswith("attn2.processor"):
        return CustomDiffusionAttnProcessor(train_kv=False, train_q_out=False)
    size, text = attention.to_k.weight.shape
    made = CustomDiffusionAttnProcessor(True, False, size, text).to(attention.to_k.weight)
    made.to_k_custom_diffusion.weight.data.copy_(attention.to_k.weight)
    made.to_v_custom_diffusion.weight.data.copy_(attention.to_v.weight)
    return made
