"""A random-weight Stable Diffusion pipeline that is made in a second, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

VOCABULARY = (
    "a an the photo portrait picture of person dog cat man woman sks zwx t@t hta in on with close "
    "up at beach snow red blue hat , . "
)
WORDS = VOCABULARY.split()
MAX_LENGTH = 16


def make_tiny_pipeline(
    folder: Path,
    *,
    sample_size: int = 8,
    latent_channels: int = 4,
    prediction_type: str = "epsilon",
    cross_attention_dim: int = 32,
    channels: tuple[int, ...] = (32, 64),
    text_layers: int = 2,
    seed: int = 0,
    unet: dict[str, Any] | None = None,
) -> Path:
    """Write a diffusers folder that `load_model` and plain diffusers open; returns `folder`.

    The pictures have `4 * sample_size` pixels a side (32 by default). `unet` overrides entries of
    the U-Net's configuration. The same arguments write the same weights.
    """
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = make_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        denoiser = UNet2DConditionModel(
            **{
                "sample_size": sample_size,
                "in_channels": latent_channels,
                "out_channels": latent_channels,
                "block_out_channels": channels,
                "layers_per_block": 1,
                "down_block_types": ("CrossAttnDownBlock2D",) * (len(channels) - 1)
                + ("DownBlock2D",),
                "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (len(channels) - 1),
                "cross_attention_dim": cross_attention_dim,
                "attention_head_dim": 4,
                "norm_num_groups": 8,
                **(unet or {}),
            }
        )
        vae = AutoencoderKL(
            in_channels=3,
            out_channels=3,
            latent_channels=latent_channels,
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 8, 16),
            norm_num_groups=4,
            sample_size=4 * sample_size,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=cross_attention_dim,
                intermediate_size=2 * cross_attention_dim,
                num_hidden_layers=text_layers,
                num_attention_heads=4,
                max_position_embeddings=MAX_LENGTH,
                pad_token_id=tokenizer.pad_token_id,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
        )
    schedule = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=denoiser,
        scheduler=schedule,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder, safe_serialization=True)
    return folder


def make_tokenizer() -> Any:
    """A tokenizer in which every word of `WORDS` is one token."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<bos>", "<unk>", "<eos>"]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys([*special, *WORDS]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>",
        special_tokens=[("<bos>", vocabulary["<bos>"]), ("<eos>", vocabulary["<eos>"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=MAX_LENGTH,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
    )


def make_photos(folder: Path, count: int = 3, side: int = 40, seed: int = 0) -> Path:
    """Write `count` small PNG files of smooth colour gradients; returns `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    down, across = np.mgrid[0:side, 0:side] / side
    for index in range(count):
        mix = random.uniform(0, 255, (3, 3))
        picture = mix[0] * down[..., None] + mix[1] * across[..., None] + mix[2] / 3
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / f"{index}.png")
    return folder


def make_tiny_run(root: Path, model: Path, photos: Path, name: str = "run", **fields: Any) -> Any:
    """A finished protect run without the protecting: its model is `model`, slightly perturbed."""
    from apdm_cli.diffusion.photos import photo_hashes
    from apdm_cli.diffusion.saving import save_pipeline
    from apdm_cli.extension.family import load_model
    from apdm_cli.runs.run import Run

    loaded = load_model(str(model), torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    run = Run.create(
        root,
        name,
        schema=1,
        **{
            "model": {"source": str(model), "revision": None, "digest": loaded.ref.digest},
            "subject": {
                "name": "subject",
                "class_noun": "person",
                "identifier": "sks",
                "photos": {
                    "sources": [str(photos)],
                    "files": [{"name": n, "sha256": d} for n, d in photo_hashes([photos])],
                },
            },
            "seed": 0,
            **fields,
        },
    )
    with torch.no_grad():
        for weight in loaded.trained.parameters():
            weight.add_(0.01 * torch.randn(weight.shape, generator=generator))
    save_pipeline(loaded, run.model)
    run.finish(duration_seconds=0.0, summary={})
    return run
