"""What `apdm protect` was asked to do, resolved and checked before anything is written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from apdm_cli.diffusion.compiling import compiling_problem
from apdm_cli.diffusion.displacements import Displacement, open_displacements
from apdm_cli.diffusion.family import Family
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.photos import Photos, load_photos
from apdm_cli.diffusion.words import check_vocabulary, check_word, unknown_words
from apdm_cli.digests import folder_digest
from apdm_cli.errors import ApdmError
from apdm_cli.extension.attack import Attack
from apdm_cli.extension.containment import asked
from apdm_cli.extension.family import load_model
from apdm_cli.extension.manager import Registered
from apdm_cli.extension.protection import Inputs, Protection, without_displacement
from apdm_cli.extension.protection_config import ProtectionConfig, low_rank
from apdm_cli.pocket.profile import POCKET, profile_of
from apdm_cli.pocket.samples import SUBJECTS
from apdm_cli.protection.asked import AskedSubject, check_subjects, default_run_name
from apdm_cli.protection.onto import subjects_of
from apdm_cli.protection.prompts import training_subject
from apdm_cli.protection.several import captions_of
from apdm_cli.runs.run import Run
from apdm_cli.subject import Crop, Subject, SubjectRecord


@dataclass(frozen=True)
class ProtectRequest:
    """Options of one protection run, as typed, with the configuration resolved.

    Attributes:
        method: the protection and who brought it.
        subjects: whom to protect, all at once.
        onto: the run whose protected model this one begins with, and whose subjects stay protected;
            `model` is that model then.
        attacks: every attack by its name, for those that are simulated.
        trained_only, adapter_only: save the trained network alone, or what is added to it.
        keep_attackers: rank at which displacements of attackers that are alive at the end are
            kept with the run; None keeps none.
        events: whether TensorBoard's event files are written beside metrics.jsonl.
        known: the families of models by name; those of the installed plugins, if None.
        ranks: how many processes make it together, each walking trajectories of its own.
    """

    method: Registered[Protection]
    subjects: tuple[AskedSubject, ...]
    model: str
    revision: str | None
    name: str | None
    root: Path
    preset: str
    settings: ProtectionConfig
    seed: int
    device: torch.device
    dtype: torch.dtype
    low_memory: bool = False
    checkpoint_every: int = 0
    trained_only: bool = False
    adapter_only: bool = False
    attacks: Mapping[str, Attack] = field(default_factory=dict)
    crop: Crop = "center"
    ignore_unreadable: bool = False
    forget_paths: bool = False
    events: bool = False
    known: Mapping[str, Family] | None = None
    onto: Run | None = None
    keep_attackers: int | None = None
    ranks: int = 1

    @property
    def earlier(self) -> tuple[Subject, ...]:
        """Whom the model protects already. There are words of them, and no photos."""
        nothing = Photos((), (), torch.empty(0, 3, 1, 1))
        return tuple(
            Subject(one["name"], one["class_noun"], one["identifier"], nothing)
            for one in (subjects_of(self.onto) if self.onto else ())
        )

    def displacements_of(self, subject: Subject) -> tuple[Displacement, ...]:
        """Where attackers of an earlier subject were, if the method wants to know."""
        if self.onto is None or not self.protection.wants_displacements(self.settings):
            return ()
        return open_displacements(self.onto.displacements / subject.name)

    @property
    def protection(self) -> Protection:
        """The method itself."""
        return self.method.item

    @property
    def who(self) -> str:
        """The method, for messages about its own code."""
        return f"the protection {self.protection.name}"

    @property
    def run_name(self) -> str:
        """The given name, or a readable one made of the subjects."""
        return self.name or default_run_name(self.subjects)

    @property
    def compiled(self) -> bool:
        """Whether forwards are compiled: asked for, and possible here."""
        return self._wants_compiled and compiling_problem(self.device.type) is None

    @property
    def _wants_compiled(self) -> bool:
        return self.settings.compiled == "auto" and not self.low_memory

    def compiling_doubts(self) -> list[str]:
        """Why forwards are not compiled although that was asked for."""
        problem = compiling_problem(self.device.type) if self._wants_compiled else None
        if problem is None:
            return []
        return [f"Forwards are not compiled, which may be slower: {problem}."]

    def shown(self, terms: Mapping[str, float]) -> dict[str, float]:
        """The terms of a step as the progress line calls them."""
        labels = self.protection.labels or {name: name for name in terms}
        return {labels[name]: value for name, value in terms.items() if name in labels}

    def load(self) -> tuple[DiffusionModel, tuple[Subject, ...], tuple[str, ...]]:
        """Load model and photos; returns them with sentences the user should see."""
        # Quick to fail, where a model takes long to load.
        check_subjects(
            self.subjects,
            self.protection,
            ignore_unreadable=self.ignore_unreadable,
            together=self.onto is not None,
        )
        adapter = low_rank(self.settings)
        model = load_model(
            self.model,
            self.device,
            self.dtype,
            self.revision,
            self.known,
            frozen=adapter is not None,
            eight_bits=adapter is not None and adapter.base == "int8",
        )
        if self.onto is not None:  # its profile is that of the original
            original = self.onto.manifest["model"]
            model = replace(model, profile=profile_of(original["source"], original["digest"]))
        said: list[str] = []
        subjects = tuple(self._subject(typed, model, said) for typed in self.subjects)
        _require_own_photos(subjects, subjects_of(self.onto) if self.onto else ())
        said += self._doubts(model, subjects)
        return model, subjects, tuple(dict.fromkeys(said))

    def _subject(self, typed: AskedSubject, model: DiffusionModel, said: list[str]) -> Subject:
        """One subject with its photos; what there is to say of it goes to `said`."""
        noun, word = typed.options
        class_noun, identifier = (
            check_word(typed.class_noun, noun),
            check_word(typed.identifier, word),
        )
        said += check_vocabulary(model, class_noun, identifier)
        photos = load_photos(
            typed.photos,
            model.resolution,
            crop=self.crop,
            ignore_unreadable=self.ignore_unreadable,
        )
        said += photos.warnings
        return Subject(typed.called(self.run_name), class_noun, identifier, photos)

    def _doubts(self, model: DiffusionModel, subjects: Sequence[Subject]) -> list[str]:
        """What will run and is probably not meant."""
        doubts = []
        trained = [training_subject(subject, self.settings.prompt_style) for subject in subjects]
        unknown = [word for one in trained for word in unknown_words(model, one.personal_prompt)]
        if unknown:
            doubts.append(
                f"The tokenizer knows no {', '.join(dict.fromkeys(unknown))}: prompt_style "
                f"{self.settings.prompt_style!r} is meant for Stable Diffusion's tokenizer."
            )
        if self.dtype == torch.float16:
            doubts.append("fp16 has no loss scaling here: small gradients vanish. Prefer bf16.")
        if self.keep_attackers is not None:
            living_on = self.protection.living_on(self.settings, self.attacks)
            if names := without_displacement(living_on):
                doubts.append(
                    "--keep-attackers: nothing will be kept of simulated attackers with "
                    f"{' and '.join(names)}, who move no weights of the network."
                )
        photos = [path for typed in self.subjects for path in typed.photos]
        if model.profile == POCKET.name and not _drawn_by_pocket(photos):
            doubts.append(
                "The embedded pocket model only draws its own small world: its results say nothing "
                "about photographs. For those, name another model with --model."
            )
        return doubts

    def _titles(self) -> dict[str, str]:
        with asked(self.who):
            return dict(self.protection.titles(self.settings))

    def _records(self, subjects: Sequence[Subject]) -> dict[str, Any]:
        """For the manifest: one subject by itself, several as a list."""
        records = []
        for subject, typed in zip(subjects, self.subjects, strict=True):
            record = SubjectRecord.of(subject, typed.photos)
            records.append(record.without_paths() if self.forget_paths else record)
        if self.onto is not None:
            told = [*subjects_of(self.onto), *(record.as_manifest() for record in records)]
            return {"subjects": told}
        if len(records) == 1:
            return {"subject": records[0].as_manifest()}
        return {"subjects": [record.as_manifest() for record in records]}

    def _begins_with(self, model: DiffusionModel) -> dict[str, Any]:
        """For the manifest: the original, and what was protected in between."""
        if self.onto is None:
            return {"model": vars(model.ref)}
        before = {
            "name": self.onto.name,
            "digest": model.ref.digest,
            "subjects": [one["name"] for one in subjects_of(self.onto)],
        }
        if self.protection.wants_displacements(self.settings):
            before["displacements"] = folder_digest(self.onto.displacements)
        return {"model": self.onto.manifest["model"], "onto": before}

    def manifest(
        self, model: DiffusionModel, subjects: Sequence[Subject], inputs: Sequence[Inputs]
    ) -> dict[str, Any]:
        """Fields that pin the run; resuming needs them unchanged.

        Args:
            inputs: of every subject, and of the earlier ones after them.
        """
        return {
            "schema": 1,
            **self._begins_with(model),
            **self._records(subjects),
            "method": self.protection.name,
            "plugin": asdict(self.method.origin),
            "preset": self.preset,
            "terms": self._titles(),
            "configuration": self.settings.description(),
            "captions": _digest(captions_of([*subjects, *self.earlier], inputs)),
            "seed": self.seed,
            "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "low_memory": self.low_memory,
            "compiled": self.compiled,
            "ranks": self.ranks,
            **({"keep_attackers": kept} if (kept := self.keep_attackers) else {}),
        }


def _require_own_photos(subjects: Sequence[Subject], earlier: Sequence[Mapping[str, Any]]) -> None:
    """Refuse one photo for two subjects: their attackers would be the same."""
    owner: dict[str, str] = {
        file["sha256"]: one["name"] for one in earlier for file in one["photos"]["files"]
    }
    for subject in subjects:
        for digest, file in zip(subject.photos.sha256, subject.photos.names, strict=True):
            if digest in owner:
                raise ApdmError(
                    f"{file} is a photo of both {owner[digest]} and {subject.name}",
                    "Give every subject photos of its own.",
                )
        owner.update(dict.fromkeys(subject.photos.sha256, subject.name))


def _digest(captions: Sequence[str]) -> str | None:
    """SHA-256 of captions, which may come from a file; None for none."""
    return hashlib.sha256("\n".join(captions).encode()).hexdigest() if captions else None


def _drawn_by_pocket(paths: Sequence[Path]) -> bool:
    return all(SUBJECTS in path.resolve().parents for path in paths)
