"""What `apdm protect` was asked to do, resolved and checked before anything is written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from apdm_cli.diffusion.family import Family
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.photos import find_photos, load_photos
from apdm_cli.diffusion.words import check_vocabulary, check_word, unknown_words
from apdm_cli.extension.family import load_model
from apdm_cli.pocket.profile import POCKET
from apdm_cli.pocket.samples import SUBJECTS
from apdm_cli.protection.prompts import distillation_captions, training_prompts
from apdm_cli.protection.settings import ProtectionSettings
from apdm_cli.runs.names import default_name, slug
from apdm_cli.subject import Crop, Subject, SubjectRecord


@dataclass(frozen=True)
class ProtectRequest:
    """Options of one protection run, as typed, with the configuration resolved.

    `known` are the families of models by name; those of the installed plugins, if None.
    """

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
    trained_only: bool = False
    crop: Crop = "center"
    ignore_unreadable: bool = False
    forget_paths: bool = False
    known: Mapping[str, Family] | None = None

    @property
    def run_name(self) -> str:
        """The given name, or a readable one made of the folder and the class."""
        return self.name or default_name(self.photos, self.class_noun)

    def load(self) -> tuple[DiffusionModel, Subject, tuple[str, ...]]:
        """Load model and photos; returns them with sentences the user should see."""
        class_noun = check_word(self.class_noun, "--class")
        identifier = check_word(self.identifier, "--identifier")
        # Quick to fail, where a model takes long to load.
        find_photos(self.photos, ignore_unreadable=self.ignore_unreadable)
        model = load_model(self.model, self.device, self.dtype, self.revision, self.known)
        said = list(check_vocabulary(model, class_noun, identifier))
        photos = load_photos(
            self.photos,
            model.resolution,
            crop=self.crop,
            ignore_unreadable=self.ignore_unreadable,
        )
        said += photos.warnings
        subject = Subject(slug(self.run_name) or "subject", class_noun, identifier, photos)
        said += self._doubts(model, subject)
        return model, subject, tuple(said)

    def _doubts(self, model: DiffusionModel, subject: Subject) -> list[str]:
        """What will run and is probably not meant."""
        doubts = []
        unknown = unknown_words(model, training_prompts(subject, self.settings.prompt_style)[0])
        if unknown:
            doubts.append(
                f"The tokenizer knows no {', '.join(unknown)}: prompt_style "
                f"{self.settings.prompt_style!r} is meant for Stable Diffusion's tokenizer."
            )
        if self.dtype == torch.float16:
            doubts.append("fp16 has no loss scaling here: small gradients vanish. Prefer bf16.")
        if model.profile == POCKET.name and not _drawn_by_pocket(self.photos):
            doubts.append(
                "The embedded pocket model only draws its own small world: its results say nothing "
                "about photographs. For those, point --model at a Stable Diffusion folder."
            )
        return doubts

    def _record(self, subject: Subject) -> SubjectRecord:
        record = SubjectRecord.of(subject, self.photos)
        return record.without_paths() if self.forget_paths else record

    def manifest(self, model: DiffusionModel, subject: Subject) -> dict[str, Any]:
        """Fields that pin the run; resuming needs them unchanged."""
        return {
            "schema": 1,
            "model": vars(model.ref),
            "subject": self._record(subject).as_manifest(),
            "preset": self.preset,
            "configuration": self.settings.model_dump(mode="json"),
            "captions": _digest(distillation_captions(subject, self.settings)),
            "seed": self.seed,
            "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "low_memory": self.low_memory,
        }


def _digest(captions: Sequence[str]) -> str | None:
    """SHA-256 of captions, which may come from a file; None for none."""
    return hashlib.sha256("\n".join(captions).encode()).hexdigest() if captions else None


def _drawn_by_pocket(paths: Sequence[Path]) -> bool:
    return all(SUBJECTS in path.resolve().parents for path in paths)
