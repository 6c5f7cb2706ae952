"""What `apdm protect` was asked to do, resolved and checked before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from apdm_cli.diffusion.loading import POCKET, load_model
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.photos import load_photos
from apdm_cli.diffusion.words import check_vocabulary, check_word
from apdm_cli.protection.settings import ProtectionSettings
from apdm_cli.runs.names import default_name, slug
from apdm_cli.subject import Subject


@dataclass(frozen=True)
class ProtectRequest:
    """Options of one protection run, as typed, with the configuration resolved."""

    photos: tuple[Path, ...]
    class_noun: str
    identifier: str
    model: str
    revision: str | None
    name: str | None
    root: Path
    preset: str
    settings: ProtectionSettings
    seed: int
    device: torch.device
    dtype: torch.dtype
    low_memory: bool = False
    checkpoint_every: int = 0
    unet_only: bool = False

    @property
    def run_name(self) -> str:
        """The given name, or a readable one made of the folder and the class."""
        return self.name or default_name(self.photos, self.class_noun)

    def load(self) -> tuple[DiffusionModel, Subject, tuple[str, ...]]:
        """Load model and photos; returns them with sentences the user should see."""
        class_noun = check_word(self.class_noun, "--class")
        identifier = check_word(self.identifier, "--identifier")
        model = load_model(self.model, self.device, self.dtype, self.revision)
        said = list(check_vocabulary(model, class_noun, identifier))
        photos = load_photos(self.photos, model.resolution)
        said += photos.warnings
        if self.model == POCKET and not _drawn_by_pocket(self.photos):
            said.append(
                "the embedded pocket model only draws its own small world: its results say nothing "
                "about photographs; for those, point --model at a Stable Diffusion folder"
            )
        name = slug(self.run_name) or "subject"
        return model, Subject(name, class_noun, identifier, photos), tuple(said)

    def manifest(self, model: DiffusionModel, subject: Subject) -> dict[str, Any]:
        """Fields that pin the run; resuming needs them unchanged."""
        return {
            "schema": 1,
            "model": vars(model.ref),
            "subject": describe_subject(subject, self.photos),
            "preset": self.preset,
            "configuration": self.settings.model_dump(mode="json"),
            "seed": self.seed,
            "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "low_memory": self.low_memory,
        }


def describe_subject(subject: Subject, sources: Sequence[Path]) -> dict[str, Any]:
    """A subject for a manifest: words, file names and digests, and where the photos lie."""
    photos = subject.photos
    return {
        "name": subject.name,
        "class_noun": subject.class_noun,
        "identifier": subject.identifier,
        "photos": {
            "sources": [str(path.resolve()) for path in sources],
            "files": [
                {"name": name, "sha256": digest}
                for name, digest in zip(photos.names, photos.sha256, strict=True)
            ],
        },
    }


def _drawn_by_pocket(paths: Sequence[Path]) -> bool:
    samples = Path(__file__).parents[1] / "pocket" / "weights" / "subjects"
    return all(samples in path.resolve().parents for path in paths)
