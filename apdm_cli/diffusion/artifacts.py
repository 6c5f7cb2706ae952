"""The formats in which personalizations are shared, each opened by its library's own loader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffusers import StableDiffusionPipeline
from diffusers.loaders.unet import CUSTOM_DIFFUSION_WEIGHT_NAME_SAFE

from apdm_cli.diffusion.model import DiffusionModel


def open_pipeline(model: DiffusionModel, folder: Path) -> DiffusionModel:
    """Whole components (`unet/`, `text_encoder/`) in the place of the model's own."""
    parts = dict(model.pipeline.components)
    for part in sorted(path for path in folder.iterdir() if path.is_dir()):
        current = parts.get(part.name)
        if current is None or not hasattr(type(current), "from_pretrained"):
            continue
        loaded = type(current).from_pretrained(part, local_files_only=True)
        if hasattr(loaded, "parameters"):
            if _shapes(loaded) != _shapes(current):
                raise ValueError(f"{part.name} has other shapes than the model's")
            first = next(current.parameters())
            loaded = loaded.to(first.device, first.dtype).eval()
        parts[part.name] = loaded
    pipeline = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    return replace(model, pipeline=pipeline)


def open_lora(model: DiffusionModel, folder: Path) -> DiffusionModel:
    """`load_lora_weights`: LoRA and DoRA, in diffusers' keys or in kohya's."""
    private = model.private_copy()
    private.pipeline.load_lora_weights(folder)
    return private


def open_peft(model: DiffusionModel, folder: Path) -> DiffusionModel:
    """`PeftModel.from_pretrained` around the U-Net: LoHa and LoKr."""
    from peft import PeftModel

    private = model.private_copy()
    # Injects its layers into the U-Net in place; the wrapper itself is not needed.
    PeftModel.from_pretrained(private.unet, folder)
    return private


def open_embedding(model: DiffusionModel, folder: Path) -> DiffusionModel:
    """`load_textual_inversion`: new words."""
    private = model.private_copy()
    for file in sorted(folder.glob("*.safetensors")):
        private.pipeline.load_textual_inversion(file.parent, weight_name=file.name)
    return private


def open_custom_diffusion(model: DiffusionModel, folder: Path) -> DiffusionModel:
    """`load_attn_procs` for keys and values, and `load_textual_inversion` for the new word."""
    private = open_embedding(model, folder / "tokens") if (folder / "tokens").is_dir() else None
    private = private or model.private_copy()
    # Without `_pipeline` this version of diffusers reads the file and then does nothing with it.
    unet: Any = private.unet
    unet.load_attn_procs(
        folder, weight_name=CUSTOM_DIFFUSION_WEIGHT_NAME_SAFE, _pipeline=private.pipeline
    )
    return private


LOADERS: dict[str, Callable[[DiffusionModel, Path], DiffusionModel]] = {
    "pipeline": open_pipeline,
    "lora": open_lora,
    "peft": open_peft,
    "embedding": open_embedding,
    "custom-diffusion": open_custom_diffusion,
}


def _shapes(module: object) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in module.named_parameters()}  # type: ignore[attr-defined]
