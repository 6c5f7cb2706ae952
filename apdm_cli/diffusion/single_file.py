"""From a whole checkpoint in one `.safetensors` file to a pipeline, without a network."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from safetensors import SafetensorError, safe_open

from apdm_cli.diffusion.configurations import STABLE_DIFFUSION_1, write_configuration
from apdm_cli.diffusion.pipeline_folder import (
    FOLDER_HINT,
    LOADING_ERRORS,
    SUPPORTED_HINT,
    QuietLibraries,
    check_parts_are_whole,
    first_sentence,
)
from apdm_cli.errors import ApdmError

STABLE_DIFFUSION_1_X, STABLE_DIFFUSION_2_X = "Stable Diffusion 1.x", "Stable Diffusion 2.x"
# A piece of a tensor's name that only one architecture has, in order of search.
MARKS = {
    "conditioner.embedders.": "Stable Diffusion XL",
    "joint_blocks.": "Stable Diffusion 3",
    "double_blocks.": "FLUX",
    "cond_stage_model.transformer.": STABLE_DIFFUSION_1_X,
    "cond_stage_model.model.": STABLE_DIFFUSION_2_X,
    "lora_": "a LoRA, which is no whole model",
}


def load_single_file(path: Path) -> StableDiffusionPipeline:
    """Open a checkpoint in the original layout, in float32 on the CPU.

    Its configuration comes from a folder of the same name beside it ("model/" for
    "model.safetensors", a diffusers folder without weights is enough), otherwise it is Stable
    Diffusion 1.5's.

    Raises:
        ApdmError: another kind of file, another architecture, or a configuration is needed.
    """
    if path.suffix != ".safetensors":
        raise ApdmError(
            f"{path} is not a .safetensors file",
            "Pickled checkpoints can run code when opened: convert them to safetensors first.",
        )
    name = architecture(path)
    if name not in (STABLE_DIFFUSION_1_X, STABLE_DIFFUSION_2_X):
        raise ApdmError(f"{path} holds {name}: not supported yet", SUPPORTED_HINT)
    beside = path.with_suffix("")
    if (beside / "model_index.json").is_file():
        return _load(path, beside)
    if name == STABLE_DIFFUSION_2_X:
        raise ApdmError(
            f"{path} holds {name}, and does not say whether it predicts noise or velocity",
            f"Put the configuration files of its diffusers folder into {beside}/ .",
        )
    with tempfile.TemporaryDirectory(prefix="apdm-") as folder:
        return _load(path, write_configuration(Path(folder), STABLE_DIFFUSION_1))


def architecture(path: Path) -> str:
    """What the checkpoint holds, in words, by the names of its tensors."""
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
    except (OSError, SafetensorError) as error:
        raise ApdmError(
            f"{path} cannot be read: {first_sentence(error)}", "Copy it again from its source."
        ) from error
    for mark, name in MARKS.items():
        if any(mark in tensor for tensor in names):
            return name
    return "no checkpoint in the original Stable Diffusion layout"


def _load(path: Path, configuration: Path) -> StableDiffusionPipeline:
    with QuietLibraries():
        try:
            pipeline = StableDiffusionPipeline.from_single_file(
                str(path),
                config=str(configuration),
                local_files_only=True,
                safety_checker=None,
                feature_extractor=None,
                dtype=torch.float32,
            )
        except LOADING_ERRORS as error:
            text = first_sentence(error)
            if "meta tensor" in text:  # how PyTorch calls a tensor that got no values
                text = "it lacks tensors of its U-Net or autoencoder"
            raise ApdmError(f"{path} cannot be loaded: {text}", FOLDER_HINT) from error
    check_parts_are_whole(pipeline, path)
    return pipeline
