"""FLUX.1 and Stable Diffusion 3 of the real classes, with random weights, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.tiny import MAX_LENGTH, WORDS, make_tokenizer

SEQUENCE = 24  # tokens that T5 reads here
WIDTH = 32


def make_tiny_flux(folder: Path, *, guidance: bool = True, side: int = 32, seed: int = 0) -> Path:
    """Write a diffusers folder like FLUX.1 [dev]'s, or [schnell]'s without `guidance`."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    clip, t5 = make_tokenizer(), make_t5_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            pooled_projection_dim=WIDTH,
            guidance_embeds=guidance,
            axes_dims_rope=(4, 6, 6),
        )
        vae = make_vae(side)
        text_encoder, text_encoder_2 = make_clip(clip), make_t5(t5)
    dynamic = {"use_dynamic_shifting": True, "shift": 3.0, "base_shift": 0.5, "max_shift": 1.15}
    FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**(dynamic if guidance else {"shift": 1.0})),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=clip,
        text_encoder_2=text_encoder_2,
        tokenizer_2=t5,
        transformer=transformer,
    ).save_pretrained(folder, safe_serialization=True)
    return folder


def make_tiny_sd3(folder: Path, *, t5: bool = True, second: bool = False, seed: int = 0) -> Path:
    """Write a diffusers folder like Stable Diffusion 3's, or 3.5's with a `second` attention."""
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )

    clips, third = (make_tokenizer(), make_tokenizer()), make_t5_tokenizer() if t5 else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = SD3Transformer2DModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=2 * WIDTH,
            caption_projection_dim=WIDTH,
            pooled_projection_dim=2 * WIDTH,
            pos_embed_max_size=12,
            dual_attention_layers=(0,) if second else (),
            qk_norm="rms_norm" if second else None,
        )
        vae = make_vae(32)
        encoders = [make_clip(clip, projected=True) for clip in clips]
        text_encoder_3 = make_t5(third, 2 * WIDTH) if t5 else None
    StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae,
        text_encoder=encoders[0],
        tokenizer=clips[0],
        text_encoder_2=encoders[1],
        tokenizer_2=clips[1],
        text_encoder_3=text_encoder_3,
        tokenizer_3=third,
    ).save_pretrained(folder, safe_serialization=True)
    return folder


def make_vae(side: int) -> Any:
    """An autoencoder with a shift, four pixels a latent."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 16),
        norm_num_groups=4,
        sample_size=side,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def make_clip(tokenizer: Any, projected: bool = False) -> Any:
    """CLIP's text encoder, with its projection or without."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def make_t5(tokenizer: Any, width: int = WIDTH) -> Any:
    """T5's encoder, version 1.1."""
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=width,
            d_kv=8,
            d_ff=2 * width,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
        )
    )


def make_t5_tokenizer() -> Any:
    """T5's own kind of tokenizer, without its file: a unigram model that knows `WORDS`."""
    from transformers import T5Tokenizer

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    words = [(f"▁{word}", -1.0) for word in dict.fromkeys(WORDS)]
    return T5Tokenizer(vocab=[*special, *words], extra_ids=0, model_max_length=SEQUENCE)
