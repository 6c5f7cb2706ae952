"""From a whole model in one `.safetensors` file to a pipeline, without a network."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from apdm_cli.errors import ApdmError, first_sentence
from apdm_cli.runs.atomic import writing_to
from apdm_cli.runs.manifest import read_json
from apdm_families.checks import check_file, check_folder, check_marks, renamed_clip
from apdm_families.configurations import (
    STABLE_DIFFUSION_1,
    stable_diffusion_xl,
    write_configuration,
)
from apdm_families.diffusers_folder import (
    FOLDER_HINT,
    LOADING_ERRORS,
    STABLE_DIFFUSION,
    STABLE_DIFFUSION_XL,
    Layout,
    QuietLibraries,
    check_parts_are_whole,
    check_pipeline,
)


@dataclass(frozen=True)
class Original:
    """Checkpoints of one family in the layout in which its first model was published.

    Attributes:
        layout: parts of the pipeline that one is opened as.
        encoders: how the tensors of every text encoder begin → what messages call it.
        clip: how those of CLIP's text encoder begin.
        configuration: published files of the pipeline, for a checkpoint that comes alone.
    """

    layout: Layout
    encoders: Mapping[str, str]
    clip: str
    configuration: Mapping[str, Any]


ORIGINAL_STABLE_DIFFUSION = Original(
    STABLE_DIFFUSION,
    {"cond_stage_model.": "text encoder"},
    "cond_stage_model.transformer.",
    STABLE_DIFFUSION_1,
)
ORIGINAL_STABLE_DIFFUSION_XL = Original(
    STABLE_DIFFUSION_XL,
    {
        "conditioner.embedders.0.transformer.": "first text encoder (as the refiner does)",
        "conditioner.embedders.1.model.": "second text encoder",
    },
    "conditioner.embedders.0.transformer.",
    stable_diffusion_xl(),
)


def load_single_file(path: Path, original: Original) -> Any:
    """Open a checkpoint in the original layout, in float32 on the CPU; returns a pipeline.

    Its configuration comes from a folder of the same name beside it ("model/" for
    "model.safetensors", a diffusers folder without weights is enough), otherwise it is the one of
    `original`. Stable Diffusion 2 is told from 1 by OpenCLIP's text encoder, whose tensors are
    named otherwise.

    Raises:
        ApdmError: a configuration is needed, or the file's tensors do not fit it.
    """
    shapes, metadata = _header(path)
    renamed = renamed_clip(list(shapes), original.clip)
    beside = path.with_suffix("")
    if (beside / "model_index.json").is_file():
        check_file(path, shapes, original.encoders)
        check_folder(beside, tuple(original.layout.tokenizers.values()))
        scheduler = read_json(beside / "scheduler" / "scheduler_config.json", foreign=True)
        check_marks(path, list(shapes), metadata, scheduler)
        return _load(path, beside, renamed, original.layout)
    if any("cond_stage_model.model." in name for name in shapes):
        raise ApdmError(
            f"{path} holds Stable Diffusion 2.x, and does not say whether it predicts noise or "
            "velocity",
            f"Put the configuration files of its diffusers folder into {beside}/ .",
        )
    check_file(path, shapes, original.encoders)
    check_marks(path, list(shapes), metadata, {})
    with tempfile.TemporaryDirectory(prefix="apdm-") as folder:
        configuration = write_configuration(Path(folder), original.configuration)
        return _load(path, configuration, renamed, original.layout)


def _header(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Shape of every tensor, by name, and the metadata; no tensor is read."""
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
        return shapes, file.metadata() or {}


def _load(path: Path, configuration: Path, renamed: Mapping[str, str], layout: Layout) -> Any:
    """Open `path`; where tensors are to be renamed, a copy of it for that moment."""
    if not renamed:
        return _opened(path, path, configuration, layout)
    with tempfile.TemporaryDirectory(prefix="apdm-") as folder:
        copy = Path(folder) / path.name
        with writing_to(copy):
            tensors = load_file(path)
            save_file({renamed.get(name, name): tensors[name] for name in tensors}, copy)
            del tensors
        return _opened(copy, path, configuration, layout)


def _opened(path: Path, source: Path, configuration: Path, layout: Layout) -> Any:
    """`source`'s pipeline, read from `path`."""
    with QuietLibraries():
        try:
            pipeline = layout.pipeline.from_single_file(
                str(path),
                config=str(configuration),
                local_files_only=True,
                dtype=torch.float32,
                **layout.without,
            )
        except LOADING_ERRORS as error:
            text = first_sentence(error)
            if "meta tensor" in text:  # how PyTorch calls a tensor that got no values
                text = "it lacks tensors of its U-Net or autoencoder"
            raise ApdmError(f"{source} cannot be loaded: {text}", FOLDER_HINT) from error
    check_parts_are_whole(pipeline, source, layout)
    check_pipeline(pipeline, str(source), layout)
    return pipeline
