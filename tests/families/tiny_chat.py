"""Z-Image, FLUX.2 [klein] and Qwen-Image of the real classes, with random weights, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.families.tiny_flow import make_vae
from tests.tiny import WORDS

WIDTH = 16
SIDE = 32  # of pictures, in pixels
READ = 64  # tokens that are read here, those around the prompt among them
AROUND = (
    "system user assistant Describe the image by detailing the color , shape , size , texture , "
    "quantity , text , spatial relationships of the objects and background :"
)
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}<|im_start|>assistant\n"
    "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
)


def make_tiny_z_image(folder: Path, *, seed: int = 0) -> Path:
    """Write a diffusers folder like Z-Image's."""
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
    from transformers import Qwen3Model

    tokenizer = make_qwen_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = ZImageTransformer2DModel(
            in_channels=4,
            dim=2 * WIDTH,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=WIDTH,
            axes_dims=[4, 6, 6],
            axes_lens=[2 * READ, WIDTH, WIDTH],
        )
        torch.nn.init.normal_(transformer.x_pad_token)
        torch.nn.init.normal_(transformer.cap_pad_token)
        vae, text_encoder = make_vae(SIDE), Qwen3Model(qwen3_config(tokenizer, layers=2))
    ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=transformer,
    ).save_pretrained(folder, safe_serialization=True)
    return folder


def make_tiny_flux2(folder: Path, *, distilled: bool = False, seed: int = 0) -> Path:
    """Write a diffusers folder like that of FLUX.2 [klein] base, or of the `distilled` one."""
    from diffusers import (
        AutoencoderKLFlux2,
        FlowMatchEulerDiscreteScheduler,
        Flux2KleinPipeline,
        Flux2Transformer2DModel,
    )
    from transformers import Qwen3ForCausalLM

    tokenizer = make_qwen_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = Flux2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=3 * WIDTH,
            timestep_guidance_channels=2 * WIDTH,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        )
        vae = AutoencoderKLFlux2(
            latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            sample_size=SIDE,
        )
        vae.bn.running_mean.normal_()
        vae.bn.running_var.uniform_(0.5, 2.0)
        # The pipeline reads the hidden states of layer 27.
        text_encoder = Qwen3ForCausalLM(qwen3_config(tokenizer, layers=27))
    Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            shift=3.0, use_dynamic_shifting=True, time_shift_type="exponential"
        ),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=transformer,
        is_distilled=distilled,
    ).save_pretrained(folder, safe_serialization=True)
    return folder


def make_tiny_qwen_image(folder: Path, *, seed: int = 0) -> Path:
    """Write a diffusers folder like Qwen-Image's; the pictures are `QwenImage.side` wide."""
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImagePipeline,
        QwenImageTransformer2DModel,
    )
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tokenizer = make_qwen_tokenizer(2 * READ)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            axes_dims_rope=(4, 6, 6),
        )
        vae = AutoencoderKLQwenImage(
            base_dim=4,
            z_dim=4,
            dim_mult=[1, 1, 2],
            num_res_blocks=1,
            temperal_downsample=[False, True],
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[0.5, 1.5, 1.0, 2.0],
        )
        text_encoder = Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(
                text_config={
                    **qwen_numbers(tokenizer, layers=2),
                    "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]},
                },
                vision_config={
                    **{"depth": 1, "hidden_size": WIDTH, "intermediate_size": WIDTH},
                    **{"num_heads": 2, "out_hidden_size": WIDTH, "fullatt_block_indexes": [0]},
                },
            )
        )
    QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=transformer,
    ).save_pretrained(folder, safe_serialization=True)
    return folder


def qwen_numbers(tokenizer: Any, layers: int) -> dict[str, Any]:
    """Sizes of a language model that knows the tokens of `tokenizer`."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 2048,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
    }


def qwen3_config(tokenizer: Any, layers: int) -> Any:
    """Qwen3's configuration."""
    from transformers import Qwen3Config

    return Qwen3Config(**qwen_numbers(tokenizer, layers), head_dim=8, tie_word_embeddings=True)


def make_qwen_tokenizer(longest: int = READ) -> Any:
    """Qwen's own kind of tokenizer: bytes, merged into words, those of `QwenImagePipeline` too."""
    from tokenizers import AddedToken
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    tokens, merges = sorted(ByteLevel.alphabet()), []
    words = dict.fromkeys([*WORDS, *AROUND.split()])
    for spelled in (*(f"Ġ{word}" for word in words), *words):
        for end in range(1, len(spelled)):
            merge = spelled[:end], spelled[end]
            if merge not in merges:
                merges.append(merge)
                tokens.append("".join(merge))
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    vocabulary["<|endoftext|>"] = len(vocabulary)
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary, merges=merges, model_max_length=longest, chat_template=TEMPLATE
    )
    marks = ("<|im_start|>", "<|im_end|>")
    tokenizer.add_tokens([AddedToken(mark, special=True) for mark in marks])
    return tokenizer
