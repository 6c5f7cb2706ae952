"""Keys and values of cross-attention, trained beside frozen ones, in Custom Diffusion's format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.unet import CUSTOM_DIFFUSION_WEIGHT_NAME_SAFE
from diffusers.models.attention_processor import CustomDiffusionAttnProcessor
from safetensors.torch import save_file
from torch import nn

from apdm_attacks.tokens import Embedding
from apdm_cli.errors import ApdmError
from apdm_cli.plugin import Artifact


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
        """Keys and values, and the token's vectors."""
        weights = [w for each in self.processors.values() for w in each.parameters()]
        return [*weights, *self.new.parameters()]

    def begin_again(self) -> None:
        """Keys and values are copies of the network's."""
        for name, processor in self.processors.items():
            if processor.train_kv:
                _copy(self.model.trained, name, processor)

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


def _processor(network: Any, name: str) -> CustomDiffusionAttnProcessor:
    """Trains keys and values where `name` is a cross-attention, nothing where it is not."""
    attention = network.get_submodule(name.removesuffix(".processor"))
    if not name.endswith("attn2.processor"):
        return CustomDiffusionAttnProcessor(train_kv=False, train_q_out=False)
    size, text = attention.to_k.weight.shape
    made = CustomDiffusionAttnProcessor(True, False, size, text).to(attention.to_k.weight)
    _copy(network, name, made)
    return made


def _copy(network: Any, name: str, processor: Any) -> None:
    """Let keys and values of `processor` be those of the attention `name`."""
    attention = network.get_submodule(name.removesuffix(".processor"))
    processor.to_k_custom_diffusion.weight.data.copy_(attention.to_k.weight)
    processor.to_v_custom_diffusion.weight.data.copy_(attention.to_v.weight)
