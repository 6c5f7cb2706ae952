"""The formats in which personalizations are shared, each opened by its library's own loader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn

from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.weight_differences import open_differences


def open_components(model: DiffusionModel, folder: Path) -> DiffusionModel:
    """Whole components (`unet/`, `text_encoder/`) in the place of the model's own."""
    components, found = dict(model.components), []
    for part in sorted(path for path in folder.iterdir() if path.is_dir()):
        current = components.get(part.name)
        if current is None:
            continue
        loaded = model.family.reopen(current, part)
        if isinstance(loaded, nn.Module):
            if _shapes(loaded) != _shapes(current):
                raise ValueError(f"{part.name} has other shapes than the model's")
            first = next(current.parameters())
            nn.Module.to(loaded, first.device, first.dtype)  # diffusers' own warns of a dtype
            loaded.eval()
        components[part.name] = loaded
        found.append(part.name)
    if not found:
        raise ValueError("it brings no component of the model")
    return replace(model, components=components)


def open_lora(model: DiffusionModel, folder: Path) -> DiffusionModel:
    """LoRA and DoRA, as the model's family opens them, and new words in `tokens`."""
    private = open_embedding(model, folder / "tokens") if (folder / "tokens").is_dir() else None
    private = private or model.private_copy()
    private.family.load_lora(private.components, folder)
    return private


def open_peft(model: DiffusionModel, folder: Path) -> DiffusionModel:
    """`PeftModel.from_pretrained` around the trained network: LoHa and LoKr."""
    from peft import PeftModel

    private = model.private_copy()
    # Injects its layers into the network in place; the wrapper itself is not needed.
    PeftModel.from_pretrained(private.trained, folder)
    return private


def open_embedding(model: DiffusionModel, folder: Path) -> DiffusionModel:
    """`load_textual_inversion`: new words."""
    private = model.private_copy()
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError("it brings no word")
    for file in files:
        load_word(private, file)
    return private


def load_word(model: DiffusionModel, file: Path) -> None:
    """`load_textual_inversion` into `model`, in place.

    With several text encoders the file has vectors for each, under the family's `word_keys`, and
    the word in its metadata: diffusers reads them one text encoder at a time.
    """
    family, pipeline = model.family, model.pipeline
    if not family.word_keys:
        pipeline.load_textual_inversion(file.parent, weight_name=file.name)
        return
    with safe_open(file, framework="pt") as opened:
        word = (opened.metadata() or {})["token"]
        vectors = {name: opened.get_tensor(key) for name, key in family.word_keys.items()}
    for encoder, tokenizer in zip(family.text_encoders, family.tokenizers, strict=True):
        pipeline.load_textual_inversion(
            vectors[encoder],
            token=word,
            text_encoder=model.component(encoder),
            tokenizer=model.component(tokenizer),
        )


def open_custom_diffusion(model: DiffusionModel, folder: Path) -> DiffusionModel:
    """`load_attn_procs` for keys and values, and `load_textual_inversion` for the new word."""
    private = open_embedding(model, folder / "tokens") if (folder / "tokens").is_dir() else None
    private = private or model.private_copy()
    (file,) = folder.glob("*.safetensors")
    # Without `_pipeline` this version of diffusers reads the file and then does nothing with it.
    network: Any = private.trained
    network.load_attn_procs(folder, weight_name=file.name, _pipeline=private.pipeline)
    return private


LOADERS: dict[str, Callable[[DiffusionModel, Path], DiffusionModel]] = {
    "pipeline": open_components,
    "difference": open_differences,
    "lora": open_lora,
    "peft": open_peft,
    "embedding": open_embedding,
    "custom-diffusion": open_custom_diffusion,
}


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in module.named_parameters()}
