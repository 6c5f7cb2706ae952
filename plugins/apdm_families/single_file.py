"""From a Stable Diffusion in one `.safetensors` file to a pipeline, without a network."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open

from apdm_cli.errors import ApdmError, first_sentence
from apdm_families.configurations import STABLE_DIFFUSION_1, write_configuration
from apdm_families.diffusers_folder import (
    FOLDER_HINT,
    LOADING_ERRORS,
    QuietLibraries,
    check_parts_are_whole,
)


def load_single_file(path: Path) -> StableDiffusionPipeline:
    """Open a checkpoint in the original layout, in float32 on the CPU.

    Its configuration comes from a folder of the same name beside it ("model/" for
    "model.safetensors", a diffusers folder without weights is enough), otherwise it is Stable
    Diffusion 1.5's.

    Raises:
        ApdmError: a configuration is needed, or the file's tensors do not fit it.
    """
    beside = path.with_suffix("")
    if (beside / "model_index.json").is_file():
        return _load(path, beside)
    if _holds_version_2(path):
        raise ApdmError(
            f"{path} holds Stable Diffusion 2.x, and does not say whether it predicts noise or "
            "velocity",
            f"Put the configuration files of its diffusers folder into {beside}/ .",
        )
    with tempfile.TemporaryDirectory(prefix="apdm-") as folder:
        return _load(path, write_configuration(Path(folder), STABLE_DIFFUSION_1))


def _holds_version_2(path: Path) -> bool:
    """Version 2 has OpenCLIP's text encoder, whose tensors are named otherwise."""
    with safe_open(path, framework="pt") as file:
        return any("cond_stage_model.model." in name for name in file.keys())  # noqa: SIM118


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
