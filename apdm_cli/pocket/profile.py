"""The embedded pocket model: whether a model is it, and what fits it. Said here only.

It is a Stable Diffusion like any other, but for its size: what is usual for full-size models does
not fit it (benchmarks/notes/search.md).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from apdm_cli.digests import folder_digest, pinned_files
from apdm_cli.errors import ApdmError

SOURCE = "pocket"  # what --model calls it
WEIGHTS = Path(__file__).parent / "weights"
# Digest of this very model as long as CLIPTokenizer could not read its tokenizer. Only the file
# that says so has changed since: it reads the words that it knows, draws and trains as it did.
EARLIER = "9be037f174baee1d3b6edfa637f380b285e2cc7d62c3978be0534daec70612e3"
# What tells its architecture from any other's, in the configuration of its U-Net.
ARCHITECTURE = ("sample_size", "in_channels", "block_out_channels", "cross_attention_dim")


@dataclass(frozen=True)
class Profile:
    """What replaces the defaults where a model is of this kind.

    Attributes:
        name: by which attacks know it.
        preset: of protections.
        sampler, steps, guidance: for drawing.
        class_images: class pictures that an evaluation draws per model.
        attack: settings of DreamBooth, the base of every attack's.
    """

    name: str
    preset: str
    sampler: str
    steps: int
    guidance: float
    class_images: int
    attack: Mapping[str, Any]

    @property
    def protection(self) -> dict[str, Any]:
        """What a protection's presets for this model begin with: class pictures as an attack draws
        them, and an inner path that steps as an attack does."""
        drawing = ("prior_pictures", "sampler_steps", "sampler_guidance")
        stepping = ("learning_rate", "prior_weight")
        return {
            **{name: self.attack[name] for name in drawing},
            "path": {name: self.attack[name] for name in stepping},
        }


_STEPS, _GUIDANCE = 20, 3.0
POCKET = Profile(
    name="pocket",
    preset="pocket",
    sampler="ddim",
    steps=_STEPS,
    guidance=_GUIDANCE,
    class_images=128,
    # The weakest setting that clearly personalizes it. Twice the rate is a stronger attack.
    attack=MappingProxyType(
        {
            "steps": 50,
            "learning_rate": 1e-4,
            "batch_size": 4,
            "prior_weight": 0.3,
            "prior_pictures": 16,
            "sampler_steps": _STEPS,
            "sampler_guidance": _GUIDANCE,
        }
    ),
)


def pocket_folder() -> Path:
    """The embedded model's folder; raises ApdmError when the package was built without it."""
    folder = WEIGHTS / "pipeline"
    if not (folder / "model_index.json").is_file():
        raise ApdmError(
            "The embedded pocket model is missing from this installation",
            "Reinstall apdm, or make it in a checkout: python -m pocket_training.train",
        )
    return folder


def profile_of(source: str, digest: str) -> str:
    """The profile that fits an original model: "pocket" by its weights, otherwise "".

    Args:
        source: as the user gave it; "pocket" is what it says.
        digest: `folder_digest` of its folder.
    """
    return POCKET.name if source == SOURCE or digest in (_digest(), EARLIER) else ""


def same_model(digest: str, recorded: str) -> bool:
    """Whether the model with `digest` is the one that was recorded when it had `recorded`."""
    return digest == recorded or {digest, recorded} == {_digest(), EARLIER}


def profile_of_folder(folder: Path) -> str:
    """`profile_of` a model that is not loaded yet; quick for a large one, whose weights differ."""
    try:
        files = (pinned_files(pocket_folder()), pinned_files(folder))
        sizes = [[f.stat().st_size for f in each if f.suffix == ".safetensors"] for each in files]
    except (OSError, ApdmError):
        return ""
    return profile_of(str(folder), folder_digest(folder)) if sizes[0] == sizes[1] else ""


def profile_by_architecture(folder: Path) -> str:
    """The profile of a model that was changed elsewhere, by the shape of its U-Net.

    For where the original is not known: its weights then say nothing.
    """
    try:
        mine, pocket = (
            json.loads((path / "unet" / "config.json").read_text(encoding="utf-8"))
            for path in (folder, pocket_folder())
        )
    except (OSError, ValueError, ApdmError):
        return ""
    same = all(mine.get(key) == pocket.get(key) for key in ARCHITECTURE)
    return POCKET.name if same else ""


@cache
def _digest() -> str:
    try:
        return folder_digest(pocket_folder())
    except ApdmError:
        return ""
