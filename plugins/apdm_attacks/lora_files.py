"""LoRA adapters: the formats in which others open them, and the rank that fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_kohya
from peft import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn

from apdm_cli.errors import UsageError

WEIGHTS = "pytorch_lora_weights.safetensors"


def save_lora(parts: dict[str, Any], folder: Path) -> None:
    """`save_lora_weights` with the metadata: without it alpha is lost where it is not the rank."""
    options: dict[str, Any] = {}
    for name, part in parts.items():
        state = convert_state_dict_to_diffusers(get_peft_model_state_dict(part))
        options[f"{name}_lora_layers"] = state
        options[f"{name}_lora_adapter_metadata"] = part.peft_config["default"].to_dict()
    StableDiffusionPipeline.save_lora_weights(folder, **options)


def save_kohya(parts: dict[str, Any], alpha: float, folder: Path) -> None:
    """Keys `lora_unet_....lora_down.weight`; diffusers' conversion assumes that alpha = rank."""
    state = {}
    for name, part in parts.items():
        for key, value in get_peft_model_state_dict(part).items():
            state[f"{name}.{key}"] = value
    converted = convert_state_dict_to_kohya(state)
    for key in converted:
        if key.endswith(".alpha"):
            converted[key] = torch.tensor(float(alpha))
    # Stable Diffusion has one text encoder, which these tools call `lora_te`.
    named = {key.replace("lora_te1_", "lora_te_"): value for key, value in converted.items()}
    save_file(named, folder / WEIGHTS)


def check_rank(unet: nn.Module, config: Any) -> None:
    """UsageError naming the first layer that is smaller than the rank."""
    for name, module in unet.named_modules():
        if isinstance(module, nn.Linear) and name.endswith(tuple(config.target_modules)):
            smallest = min(module.in_features, module.out_features)
            if config.r > smallest:
                raise UsageError(
                    f"lora.rank: {config.r} is larger than the layer {name} ({smallest})",
                    f"Use at most {smallest}.",
                )
