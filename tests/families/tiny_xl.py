"""A random-weight Stable Diffusion XL pipeline of diffusers' own classes, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.tiny import MAX_LENGTH, make_tokenizer

WIDTHS = (16, 24)  # hidden sizes of the two text encoders
POOLED = 12  # width of the second one's projection, which is what is pooled
NUMBER = 8  # width of the embedding of each of the six sizes


def make_tiny_xl(
    folder: Path,
    *,
    prediction_type: str = "epsilon",
    seed: int = 0,
    unet: dict[str, Any] | None = None,
) -> Path:
    """Write a diffusers folder of some 300 000 parameters; returns `folder`.

    The pictures have 64 pixels a side. `unet` overrides entries of the U-Net's configuration. The
    scheduler is Euler's, as in the published folder. The same arguments write the same weights.
    """
    from diffusers import (
        AutoencoderKL,
        EulerDiscreteScheduler,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    tokenizers = [make_tokenizer(), make_tokenizer()]
    tokenizers[1].pad_token = ","  # the published second tokenizer pads with a word as well
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        denoiser = UNet2DConditionModel(
            **{
                "sample_size": 16,
                "block_out_channels": (16, 32),
                "layers_per_block": 1,
                "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
                "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
                "transformer_layers_per_block": (1, 2),
                "attention_head_dim": (2, 4),
                "cross_attention_dim": sum(WIDTHS),
                "use_linear_projection": True,
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": NUMBER,
                "projection_class_embeddings_input_dim": POOLED + 6 * NUMBER,
                "norm_num_groups": 8,
                **(unet or {}),
            }
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 8, 16),
            norm_num_groups=4,
            sample_size=64,
            scaling_factor=0.13025,
            force_upcast=True,
        )
        encoders = [
            kind(_text_config(tokenizer, width))
            for kind, tokenizer, width in zip(
                (CLIPTextModel, CLIPTextModelWithProjection), tokenizers, WIDTHS, strict=True
            )
        ]
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        timestep_spacing="leading",
        steps_offset=1,
    )
    StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=encoders[0],
        text_encoder_2=encoders[1],
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        unet=denoiser,
        scheduler=scheduler,
        add_watermarker=False,
    ).save_pretrained(folder, safe_serialization=True)
    return folder


def _text_config(tokenizer: Any, width: int) -> Any:
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        projection_dim=POOLED,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
