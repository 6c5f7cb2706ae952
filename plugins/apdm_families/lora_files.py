"""LoRA adapters in the formats in which others open them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_kohya
from peft import (
    LoraConfig,
    PeftConfig,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from safetensors.torch import load_file, save_file
from torch import Tensor

PEFT = ".lora_A."
WRAPPED = "base_model.model."  # how names begin in the files of a PeftModel
TEXT_MODEL = "text_model."  # how they begin in a CLIP text encoder, unless transformers is new
# A model's only text encoder is `lora_te` to the tools that read kohya's files.
KOHYA_TEXT = {"text_encoder": ("lora_te_", "lora_te1_"), "text_encoder_2": ("lora_te2_",)}


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
            inner = TEXT_MODEL + key.removeprefix(TEXT_MODEL) if name in KOHYA_TEXT else key
            state[f"{name}.{inner}"] = value
    converted = convert_state_dict_to_kohya(state)
    for key in converted:
        if key.endswith(".alpha"):
            converted[key] = torch.tensor(alpha)
    if "text_encoder_2" not in parts:
        converted = {key.replace("lora_te1_", "lora_te_"): v for key, v in converted.items()}
    save_file(converted, file)


def save_text_adapter(encoder: Any, folder: Path) -> None:
    """What `PeftModel.from_pretrained(encoder, folder)` opens.

    `load_lora_weights` reads adapters of text encoders too, but lets transformers put them on,
    which takes no peft but the newest.
    """
    state = get_peft_model_state_dict(encoder)
    folder.mkdir(parents=True, exist_ok=True)
    encoder.peft_config["default"].save_pretrained(folder)
    tensors = {f"{WRAPPED}{key}": value.cpu().contiguous() for key, value in state.items()}
    save_file(tensors, folder / "adapter_model.safetensors")


def open_text_adapter(encoder: Any, folder: Path) -> None:
    """Put what `save_text_adapter` wrote onto `encoder`, in place, whatever it calls its layers."""
    tensors = load_file(folder / "adapter_model.safetensors")
    plain = {key.removeprefix(WRAPPED): value for key, value in tensors.items()}
    _put_on(encoder, PeftConfig.from_pretrained(str(folder)), plain)


def open_kohya(pipeline: Any, encoders: Mapping[str, Any], file: Path) -> None:
    """Put a file of kohya's keys onto the network of `pipeline`, and onto `encoders`, in place."""
    state = load_file(file)
    starts = tuple(start for each in KOHYA_TEXT.values() for start in each)
    rest = {key: value for key, value in state.items() if not key.startswith(starts)}
    if rest:
        pipeline.load_lora_weights(rest)
    for name, encoder in encoders.items():
        for start in KOHYA_TEXT.get(name, ()):
            _open_kohya_text(encoder, start, state)


def holds_kohya_text(file: Path) -> bool:
    """Whether `file` has adapters of text encoders under kohya's keys."""
    from safetensors import safe_open

    starts = tuple(start for each in KOHYA_TEXT.values() for start in each)
    with safe_open(file, framework="pt") as opened:
        return any(key.startswith(starts) for key in opened.keys())  # noqa: SIM118


def _open_kohya_text(encoder: Any, start: str, state: Mapping[str, Tensor]) -> None:
    plain, targets, rank, alpha = {}, [], 1, 1.0
    for name, _ in encoder.named_modules():
        inner = TEXT_MODEL + name.removeprefix(TEXT_MODEL)
        key = start + inner.replace(".", "_")
        if f"{key}.lora_down.weight" in state:
            targets.append(name)
            plain[f"{name}.lora_A.weight"] = state[f"{key}.lora_down.weight"]
            plain[f"{name}.lora_B.weight"] = state[f"{key}.lora_up.weight"]
            rank, alpha = len(plain[f"{name}.lora_A.weight"]), float(state[f"{key}.alpha"])
    if targets:
        _put_on(encoder, LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets), plain)


def _put_on(encoder: Any, config: Any, tensors: Mapping[str, Tensor]) -> None:
    """Adapters of the values `tensors` on `encoder`; ValueError where it has other layers."""
    start = TEXT_MODEL if hasattr(encoder, "text_model") else ""
    named = {start + key.removeprefix(TEXT_MODEL): value for key, value in tensors.items()}
    inject_adapter_in_model(config, encoder)
    encoder.requires_grad_(False)
    loaded = set_peft_model_state_dict(encoder, named)
    missing = [key for key in loaded.missing_keys if ".lora_" in key]
    if missing or loaded.unexpected_keys:
        raise ValueError(f"the text encoder has no layer {[*missing, *loaded.unexpected_keys][0]}")
