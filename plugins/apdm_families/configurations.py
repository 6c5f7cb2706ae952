"""The published configurations of Stable Diffusion, for weights that come without them.

Stable Diffusion 1.5's own files; 2.1 and XL differ in the entries named here. The tokenizer of all
is CLIP's, whose merges come with the package open_clip.
"""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CLIP_MERGES = 49152 - 256 - 2

STABLE_DIFFUSION_1: dict[str, Any] = {
    "model_index.json": {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    },
    "unet/config.json": {
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "attention_head_dim": 8,
        "block_out_channels": [320, 640, 1280, 1280],
        "center_input_sample": False,
        "cross_attention_dim": 768,
        "down_block_types": [
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "DownBlock2D",
        ],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 4,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": 32,
        "out_channels": 4,
        "sample_size": 64,
        "up_block_types": [
            "UpBlock2D",
            "CrossAttnUpBlock2D",
            "CrossAttnUpBlock2D",
            "CrossAttnUpBlock2D",
        ],
    },
    "vae/config.json": {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "out_channels": 3,
        "sample_size": 512,
        "scaling_factor": 0.18215,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    },
    "text_encoder/config.json": {
        "architectures": ["CLIPTextModel"],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "hidden_act": "quick_gelu",
        "hidden_size": 768,
        "intermediate_size": 3072,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "pad_token_id": 1,
        "projection_dim": 768,
        "vocab_size": 49408,
    },
    "scheduler/scheduler_config.json": {
        "_class_name": "PNDMScheduler",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
    },
    "tokenizer/tokenizer_config.json": {
        "tokenizer_class": "CLIPTokenizer",
        "add_prefix_space": False,
        "bos_token": "<|startoftext|>",
        "do_lower_case": True,
        "eos_token": "<|endoftext|>",
        "errors": "replace",
        "model_max_length": 77,
        "pad_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
    },
}

# Stable Diffusion 2.1 (768 pixels, v-prediction); 2.1-base has 64, 512 and epsilon.
CHANGES_IN_2_1: dict[str, dict[str, Any]] = {
    "unet/config.json": {
        "attention_head_dim": [5, 10, 20, 20],
        "cross_attention_dim": 1024,
        "sample_size": 96,
        "use_linear_projection": True,
    },
    "vae/config.json": {"sample_size": 768},
    "text_encoder/config.json": {
        "hidden_act": "gelu",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 23,
        "projection_dim": 512,
    },
    "scheduler/scheduler_config.json": {"prediction_type": "v_prediction"},
    "tokenizer/tokenizer_config.json": {"pad_token": "!"},
}


def stable_diffusion_2_1() -> dict[str, Any]:
    """File name → content, as `STABLE_DIFFUSION_1`."""
    files = copy.deepcopy(STABLE_DIFFUSION_1)
    for name, entries in CHANGES_IN_2_1.items():
        files[name].update(entries)
    return files


# Stable Diffusion XL base 1.0. Its second text encoder and tokenizer differ from the first.
CHANGES_IN_XL: dict[str, dict[str, Any]] = {
    "model_index.json": {
        "_class_name": "StableDiffusionXLPipeline",
        "force_zeros_for_empty_prompt": True,
        "image_encoder": [None, None],
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
    },
    "unet/config.json": {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "attention_head_dim": [5, 10, 20],
        "block_out_channels": [320, 640, 1280],
        "cross_attention_dim": 2048,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "projection_class_embeddings_input_dim": 2816,
        "sample_size": 128,
        "transformer_layers_per_block": [1, 2, 10],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "use_linear_projection": True,
    },
    "vae/config.json": {"force_upcast": True, "sample_size": 1024, "scaling_factor": 0.13025},
    "scheduler/scheduler_config.json": {
        "_class_name": "EulerDiscreteScheduler",
        "prediction_type": "epsilon",
        "timestep_spacing": "leading",
    },
}
CHANGES_IN_SECOND: dict[str, dict[str, Any]] = {
    "text_encoder": {
        "architectures": ["CLIPTextModelWithProjection"],
        "hidden_act": "gelu",
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_attention_heads": 20,
        "num_hidden_layers": 32,
        "projection_dim": 1280,
    },
    "tokenizer": {"pad_token": "!"},
}


def stable_diffusion_xl() -> dict[str, Any]:
    """File name → content, as `STABLE_DIFFUSION_1`."""
    files = copy.deepcopy(STABLE_DIFFUSION_1)
    for key in ("requires_safety_checker", "safety_checker"):
        del files["model_index.json"][key]
    for name, entries in CHANGES_IN_XL.items():
        files[name].update(entries)
    for part, file in (("text_encoder", "config.json"), ("tokenizer", "tokenizer_config.json")):
        files[f"{part}_2/{file}"] = {**files[f"{part}/{file}"], **CHANGES_IN_SECOND[part]}
    return files


def write_configuration(folder: Path, files: Mapping[str, Any]) -> Path:
    """Write configuration and tokenizer files into `folder`; returns it."""
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content, indent=2), encoding="utf-8")
        if file.name == "tokenizer_config.json":
            write_clip_vocabulary(file.parent)
    return folder


def write_clip_vocabulary(folder: Path) -> None:
    """Write CLIP's vocab.json and merges.txt (49408 tokens) into `folder`."""
    import open_clip

    source = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    with gzip.open(source, "rt", encoding="utf-8") as file:
        merges = file.read().split("\n")[1 : CLIP_MERGES + 1]
    letters = list(open_clip.tokenizer.bytes_to_unicode().values())
    pieces = [merge.replace(" ", "") for merge in merges]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *pieces]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
