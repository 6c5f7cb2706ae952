"""LoRA adapters in the formats in which others open them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_kohya
from peft import get_peft_model_state_dict
from safetensors.torch import save_file

PEFT = ".lora_A."


def save_diffusers(pipeline: Any, parts: Mapping[str, Any], file: Path) -> None:
    """`pipeline.save_lora_weights` of a class of pipelines, with the metadata.

    Without them alpha is lost where it is not the rank.
    """
    options: dict[str, Any] = {}
    for name, part in parts.items():
        state = get_peft_model_state_dict(part)
        # diffusers has names of its own for the attention of U-Nets and text encoders, and peft's
        # for the rest. Of a file that has both, its loader reads those that the first key has.
        converted = convert_state_dict_to_diffusers(state)
        if name != "transformer" and not any(PEFT in key for key in converted):
            state = converted
        options[f"{name}_lora_layers"] = state
        options[f"{name}_lora_adapter_metadata"] = part.peft_config["default"].to_dict()
    pipeline.save_lora_weights(file.parent, weight_name=file.name, **options)


def save_kohya(parts: Mapping[str, Any], file: Path) -> None:
    """Keys `lora_unet_....lora_down.weight`; diffusers' conversion assumes that alpha = rank."""
    state, alpha = {}, 0.0
    for name, part in parts.items():
        alpha = float(part.peft_config["default"].lora_alpha)
        for key, value in get_peft_model_state_dict(part).items():
            state[f"{name}.{key}"] = value
    converted = convert_state_dict_to_kohya(state)
    for key in converted:
        if key.endswith(".alpha"):
            converted[key] = torch.tensor(alpha)
    if "text_encoder_2" not in parts:  # a model's only text encoder is `lora_te` to these tools
        converted = {key.replace("lora_te1_", "lora_te_"): v for key, v in converted.items()}
    save_file(converted, file)
