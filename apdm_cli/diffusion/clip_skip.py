"""An earlier layer of the text encoder in training and in drawing: what trainers call clip-skip.

kohya's sd-scripts read the layer `clip_skip` from the end, through the encoder's final norm; 1 is
the last one. What was trained so has to be drawn with so: an artifact says it in a file.
"""

from __future__ import annotations

from pathlib import Path

from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.runs.manifest import read_json, write_json_atomic

NOTE = "clip_skip.json"


def skip_layers(model: DiffusionModel, clip_skip: int) -> None:
    """Let `model`, whose text encoder is its own, read that layer from now on.

    ApdmError where its family has no such thing.
    """
    if clip_skip > 1:
        model.family.skip_text_layers(model.components, clip_skip - 1)


def note_clip_skip(folder: Path, clip_skip: int) -> None:
    """Say in an artifact which layer it was trained with, unless it is the last."""
    if clip_skip > 1:
        write_json_atomic(folder / NOTE, {"clip_skip": clip_skip})


def as_noted(model: DiffusionModel, folder: Path) -> DiffusionModel:
    """`model` with the artifact in `folder`, reading the layer that is noted there."""
    if not (folder / NOTE).is_file():
        return model
    own = model.private_copy(trained=model.trained)  # its text encoder may be another model's
    skip_layers(own, int(read_json(folder / NOTE)["clip_skip"]))
    return own
