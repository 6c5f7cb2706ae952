"""From a Stable Diffusion in one `.safetensors` file to a pipeline, without a network."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from apdm_cli.errors import ApdmError, first_sentence
from apdm_cli.runs.atomic import writing_to
from apdm_cli.runs.manifest import read_json
from apdm_families.checks import check_file, check_folder, check_prediction, renamed_clip
from apdm_families.configurations import STABLE_DIFFUSION_1, write_configuration
from apdm_families.diffusers_folder import (
    FOLDER_HINT,
    LOADING_ERRORS,
    STABLE_DIFFUSION,
    QuietLibraries,
    check_parts_are_whole,
    check_pipeline,
)


def load_single_file(path: Path) -> StableDiffusionPipeline:
    """Open a checkpoint in the original layout, in float32 on the CPU.

    Its configuration comes from a folder of the same name beside it ("model/" for
    "model.safetensors", a diffusers folder without weights is enough), otherwise it is Stable
    Diffusion 1.5's. Version 2 is told by OpenCLIP's text encoder, whose tensors are named
    otherwise.

    Raises:
        ApdmError: a configuration is needed, or the file's tensors do not fit it.
    """
    shapes = _shapes(path)
    beside = path.with_suffix("")
    if (beside / "model_index.json").is_file():
        check_file(path, shapes)
        check_folder(beside)
        scheduler = read_json(beside / "scheduler" / "scheduler_config.json", foreign=True)
        check_prediction(path, list(shapes), str(scheduler.get("prediction_type", "epsilon")))
        return _load(path, beside, renamed_clip(list(shapes)))
    if any("cond_stage_model.model." in name for name in shapes):
        raise ApdmError(
            f"{path} holds Stable Diffusion 2.x, and does not say whether it predicts noise or "
            "velocity",
            f"Put the configuration files of its diffusers folder into {beside}/ .",
        )
    check_file(path, shapes)
    check_prediction(path, list(shapes), "epsilon")
    with tempfile.TemporaryDirectory(prefix="apdm-") as folder:
        configuration = write_configuration(Path(folder), STABLE_DIFFUSION_1)
        return _load(path, configuration, renamed_clip(list(shapes)))


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor, by name; none is read."""
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        return {name: tuple(file.get_slice(name).get_shape()) for name in names}


def _load(path: Path, configuration: Path, renamed: Mapping[str, str]) -> StableDiffusionPipeline:
    """Open `path`; where tensors are to be renamed, a copy of it for that moment."""
    if not renamed:
        return _opened(path, path, configuration)
    with tempfile.TemporaryDirectory(prefix="apdm-") as folder:
        copy = Path(folder) / path.name
        with writing_to(copy):
            tensors = load_file(path)
            save_file({renamed.get(name, name): tensors[name] for name in tensors}, copy)
            del tensors
        return _opened(copy, path, configuration)


def _opened(path: Path, source: Path, configuration: Path) -> StableDiffusionPipeline:
    """`source`'s pipeline, read from `path`."""
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
            raise ApdmError(f"{source} cannot be loaded: {text}", FOLDER_HINT) from error
    check_parts_are_whole(pipeline, source, STABLE_DIFFUSION)
    check_pipeline(pipeline, str(source), STABLE_DIFFUSION)
    return pipeline
