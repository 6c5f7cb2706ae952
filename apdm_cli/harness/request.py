"""What `apdm attack` was asked to do, resolved into cells before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from apdm_cli.diffusion.family import Family
from apdm_cli.diffusion.words import check_word
from apdm_cli.errors import UsageError
from apdm_cli.extension.attack import Attack
from apdm_cli.extension.manager import Registered
from apdm_cli.harness.arms import Arms, external_run
from apdm_cli.harness.photo_set import PhotoSet
from apdm_cli.harness.plan import PlannedCell, Words, make_jobs, plan_cells
from apdm_cli.harness.suites import SuiteEntry, load_suite
from apdm_cli.runs.names import default_name
from apdm_cli.runs.run import Run


@dataclass(frozen=True)
class AttackRequest:
    """Options of one `apdm attack`, as typed.

    Attributes:
        run: name or folder of a finished protect run; None is the newest.
        model, original: a model protected elsewhere, and what it was made from.
        plugins, suite: which attacks; without both the suite `quick`.
        settings: layers of {attack: {key: value}}.
        known: families of models by name; those of the installed plugins, if None.
    """

    root: Path
    device: torch.device
    dtype: torch.dtype
    run: str | None = None
    model: str | None = None
    original: str | None = None
    plugins: tuple[str, ...] = ()
    suite: str | None = None
    photos: tuple[Path, ...] = ()
    identifier: str | None = None
    class_noun: str | None = None
    transforms: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    settings: tuple[dict[str, Any], ...] = ()
    control: bool = True
    known: Mapping[str, Family] | None = None

    def entries(self) -> list[SuiteEntry]:
        """The attacks to run."""
        entries = [SuiteEntry(name=name) for name in self.plugins]
        if self.suite is not None or not entries:
            entries += load_suite(self.suite or "quick").attack
        return entries

    def plan(
        self, available: dict[str, Registered[Attack]]
    ) -> tuple[Arms, list[PlannedCell], list[str]]:
        """Models, cells, and sentences for the user.

        Raises:
            UsageError, ApdmError: unknown names and settings, no run, a run that is not finished,
                photos that are gone.
        """
        entries = self.entries()
        self._check_names(available, entries)
        run = self._run()
        recorded = run.manifest["subject"]
        photos = PhotoSet.read(self.photos) if self.photos else PhotoSet.recall(recorded)
        words = Words(
            recorded["name"],
            check_word(self.class_noun or recorded["class_noun"], "--subject-class"),
            check_word(self.identifier or recorded["identifier"], "--identifier"),
        )
        arms = Arms(run, self.device, self.dtype, self.known)
        jobs = make_jobs(
            available,
            entries,
            settings=self.settings,
            words=words,
            photos=photos,
            transforms=self.transforms,
            seeds=self.seeds,
            profile=arms.profile(),
            label=self._label(recorded, photos, words),
            other_photos=bool(self.photos),
        )
        control, said = self.control, []
        if control and not arms.has_original:
            control = False
            said.append(
                f"the original of {self.model or run.name} is not known: no control arm, so a low "
                "similarity may only mean a weak attack; name it with --original"
            )
        return arms, plan_cells(jobs, arms, self.root, control=control), said

    def _check_names(
        self, available: dict[str, Registered[Attack]], entries: Sequence[SuiteEntry]
    ) -> None:
        from apdm_cli.extension.manager import choose

        for entry in entries:
            choose(available, entry.name)

    def _run(self) -> Run:
        if self.model is None:
            if self.original is not None:
                raise UsageError("--original goes with --model.", "A run knows its original.")
            return Run.open(self.root, self.run) if self.run else Run.newest_finished(self.root)
        if self.run is not None:
            raise UsageError("Give a run or --model, not both.")
        if not self.photos or not self.class_noun:
            raise UsageError(
                "--model needs --photos and --subject-class.",
                "Without a run nothing else says whom the model is protected against.",
            )
        photos = PhotoSet.read(self.photos)
        subject = {
            "name": default_name(self.photos, self.class_noun),
            "class_noun": check_word(self.class_noun, "--subject-class"),
            "identifier": check_word(self.identifier or "sks", "--identifier"),
            "photos": photos.as_manifest(),
        }
        return external_run(
            self.root, self.model, self.original, self.known, subject=subject, seed=0
        )

    def _label(self, recorded: dict[str, Any], photos: PhotoSet, words: Words) -> str:
        parts = []
        protected = {file["sha256"] for file in recorded["photos"]["files"]}
        if not photos.digests & protected:
            parts.append("unseen photos")
        elif photos.digests - protected:
            parts.append("mixed photos")
        elif protected - photos.digests:
            parts.append(f"{len(photos.files)} of {len(protected)} photos")
        if words.class_noun != recorded["class_noun"]:
            parts.append(f"class {words.class_noun}")
        if words.identifier != recorded["identifier"]:
            parts.append(f"identifier {words.identifier}")
        return ", ".join(parts)
