"""What `apdm attack` was asked to do, resolved into cells before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apdm_cli.diffusion.source import check_source
from apdm_cli.diffusion.words import check_pocket_vocabulary, check_word
from apdm_cli.errors import UsageError
from apdm_cli.extension.manager import Registered, choose
from apdm_cli.harness.crops import Crops
from apdm_cli.harness.plan import BOTH, Job, PlannedCell, make_jobs, plan_cells
from apdm_cli.harness.protected import external_folder, profile_of_run
from apdm_cli.harness.suites import SuiteEntry, load_suite
from apdm_cli.pocket.profile import profile_by_architecture
from apdm_cli.protection.perturbed import PerturbedPhotos
from apdm_cli.runs.names import default_name
from apdm_cli.runs.run import Run
from apdm_cli.subject import Crop, SubjectRecord

if TYPE_CHECKING:
    import torch

    from apdm_cli.diffusion.family import Family
    from apdm_cli.extension.attack import Attack
    from apdm_cli.harness.arms import ArmName, Arms
    from apdm_cli.harness.stops import Drawing


@dataclass(frozen=True)
class AttackRequest:
    """Options of one `apdm attack`, as typed.

    Attributes:
        device, dtype: where `plan` has the models loaded; `check` needs neither.
        run: name or folder of a protect run; None is the newest finished one.
        subject: name of the one subject to attack of a run that protects several; None is each.
        model, original: a model protected elsewhere, and what it was made from.
        plugins, suite: which attacks; without both the suite `quick`.
        clean_photos: how many of the photos that the run protects the attacker has unprotected.
        crop: how the attacker cuts photos, whatever a suite says; None is as the entry of a suite
            says, else as the protector does, and in the middle where there are other photos.
        settings: layers of {attack: {key: value}}.
        wanted: which models are attacked. Only the protected one needs a run that is finished.
        budgets: multiples of each attack's steps; without them a suite's own, and 1 for --plugin.
        pictures: what was asked of the pictures on the way, as typed.
        known: families of models by name; those of the installed plugins, if None.
    """

    root: Path
    device: torch.device | None = None
    dtype: torch.dtype | None = None
    run: str | None = None
    subject: str | None = None
    model: str | None = None
    original: str | None = None
    plugins: tuple[str, ...] = ()
    suite: str | None = None
    photos: tuple[Path, ...] = ()
    identifier: str | None = None
    class_noun: str | None = None
    transforms: tuple[str, ...] = ()
    clean_photos: int = 0
    crop: Crop | None = None
    seeds: tuple[int, ...] = (0,)
    settings: tuple[dict[str, Any], ...] = ()
    wanted: Sequence[ArmName] = BOTH
    budgets: tuple[float, ...] | None = None
    pictures: Mapping[str, Any] = field(default_factory=dict)
    known: Mapping[str, Family] | None = None

    def entries(self) -> list[SuiteEntry]:
        """The attacks to run."""
        entries = [SuiteEntry(name=name) for name in self.plugins]
        if self.suite is not None or not entries:
            suite = load_suite(self.suite or "quick")
            entries += [
                entry.model_copy(update={"budgets": entry.budgets or suite.budgets})
                for entry in suite.attack
            ]
        if self.budgets is None:
            return entries
        return [entry.model_copy(update={"budgets": self.budgets}) for entry in entries]

    def check(self, available: dict[str, Registered[Attack]]) -> None:
        """Refuse what `plan` would refuse without opening a model; needs neither models nor torch.

        Raises:
            UsageError, ApdmError: as `plan`.
        """
        entries = self.entries()
        self._check_names(available, entries)
        self._check_options()
        if "face" in {self.crop or entry.own_crop for entry in entries}:
            from apdm_cli.diffusion.faces import require_detector

            require_detector()
        if self.model is None:
            run = self._protect_run()
            if "protected" in self.wanted:
                run.require_done()
            for view in self._views(run):
                recorded = SubjectRecord.from_manifest(view.manifest["subject"])
                self._check_subject(available, entries, recorded, profile_of_run(run))
        else:
            profile = profile_by_architecture(external_folder(self.model))
            if self.original is not None:
                check_source(self.original)
            nobody = SubjectRecord("", self.class_noun or "", "sks", (), ())
            self._check_subject(available, entries, nobody, profile)

    def _check_subject(
        self,
        available: dict[str, Registered[Attack]],
        entries: Sequence[SuiteEntry],
        recorded: SubjectRecord,
        profile: str,
    ) -> None:
        noun, word = self._words(recorded)
        if profile and self.model is None:
            check_pocket_vocabulary(noun, word, "--subject-class")
        sources = self.photos or recorded.sources
        subject = replace(recorded, class_noun=noun, identifier=word, sources=sources)
        self._jobs(available, entries, subject, recorded, profile, self._crops(recorded))
        if self.photos:
            from apdm_cli.diffusion.photo_decoding import require_readable

            require_readable(self.photos)
        else:
            recorded.found()

    def plan(
        self,
        available: dict[str, Registered[Attack]],
        drawing: Drawing | None = None,
        *,
        write: bool = True,
    ) -> tuple[Arms, list[PlannedCell], list[str]]:
        """Models, cells, and sentences for the user.

        Args:
            drawing: which pictures are looked at on the way to the longest budget.
            write: whether a model that was protected elsewhere gets a run of its own, as it must
                before it is attacked; nothing else is written here.

        Raises:
            UsageError, ApdmError: unknown names and settings, no run, a run that is not finished,
                photos that are gone.
        """
        from apdm_cli.harness.arms import Arms

        if self.device is None or self.dtype is None:
            raise ValueError("a request without device and dtype can only be checked")
        entries = self.entries()
        self._check_names(available, entries)
        run = self._run(write)
        views = self._views(run)
        arms = Arms(run if len(views) > 1 else views[0], self.device, self.dtype, self.known)
        wanted, said = self.wanted, []
        if wanted == BOTH and not arms.has_original:
            wanted = ("protected",)
            said.append(
                f"The original of {self.model or run.name} is not known, so only the protected "
                "model is attacked: a low similarity may only mean a weak attack. Name the "
                "original with --original."
            )
        cells = []
        for view in views:
            recorded = SubjectRecord.from_manifest(view.manifest["subject"])
            subject = self._subject(recorded)
            crops, about = self._crops(recorded).cutting(subject, entries)
            said += about
            jobs = self._jobs(available, entries, subject, recorded, arms.profile(), crops)
            cells += plan_cells(jobs, arms.of(view), self.root, wanted=wanted, drawing=drawing)
        return arms, cells, said

    def of_run(self, run: Run) -> AttackRequest:
        """The same, of the run that `plan` has for a model that was protected elsewhere.

        Whoever plans again need not open that model's original to know it.
        """
        if self.model is None:
            return self
        return replace(self, run=run.name, model=None, original=None)

    def _views(self, run: Run) -> list[Run]:
        """The run for every subject that is attacked."""
        views = run.each if self.subject is None else [run.of_subject(self.subject)]
        if len(views) > 1 and (self.photos or self.class_noun):
            names = " and ".join(view.subject for view in views)
            raise UsageError(
                f"--photos and --subject-class are of one subject, and the run protects {names}",
                f"Add --subject {views[0].subject}, for example.",
            )
        return views

    def _subject(self, recorded: SubjectRecord) -> SubjectRecord:
        """Whom the attacker learns: the run's subject, with other photos or words where given."""
        noun, word = self._words(recorded)
        if self.photos:
            return SubjectRecord.read(recorded.name, noun, word, self.photos)
        return replace(recorded.found(), class_noun=noun, identifier=word)

    def _words(self, recorded: SubjectRecord) -> tuple[str, str]:
        noun = check_word(self.class_noun or recorded.class_noun, "--subject-class")
        return noun, check_word(self.identifier or recorded.identifier, "--identifier")

    def _crops(self, recorded: SubjectRecord) -> Crops:
        return Crops(self.crop, recorded.crop)

    def _jobs(
        self,
        available: dict[str, Registered[Attack]],
        entries: Sequence[SuiteEntry],
        subject: SubjectRecord,
        recorded: SubjectRecord,
        profile: str,
        crops: Crops,
    ) -> list[Job]:
        return make_jobs(
            available,
            entries,
            settings=self.settings,
            subject=subject,
            transforms=self.transforms,
            seeds=self.seeds,
            profile=profile,
            label=_label(recorded, subject, self.clean_photos),
            other_photos=bool(self.photos),
            clean_photos=self.clean_photos,
            crops=crops,
            pictures=self.pictures,
        )

    def _check_names(
        self, available: dict[str, Registered[Attack]], entries: Sequence[SuiteEntry]
    ) -> None:
        for entry in entries:
            choose(available, entry.name)

    def _check_options(self) -> None:
        """--model, --original and RUN fit together."""
        if self.model is None:
            if self.original is not None:
                raise UsageError("--original goes with --model.", "A run knows its original.")
            return
        if self.clean_photos:
            raise UsageError(
                "--clean-photos goes with a run that protects photos, not with --model.",
                "Leave it out.",
            )
        if self.subject is not None:
            raise UsageError("--subject goes with a run, not with --model.", "Give one of them.")
        if self.run is not None:
            raise UsageError("Give a run or --model, not both.", "A run has its own model.")
        if not self.photos or not self.class_noun:
            raise UsageError(
                "--model needs --photos and --subject-class.",
                "Without a run nothing else says whom the model is protected against.",
            )

    def _protect_run(self) -> Run:
        run = Run.open(self.root, self.run) if self.run else Run.newest_finished(self.root)
        if self.clean_photos:
            run.require_done()
            perturbed = PerturbedPhotos.of(run)
            if perturbed is None:
                raise UsageError(
                    f"--clean-photos: run {run.name} protects the model, and all photos are clean",
                    "Leave it out.",
                )
            recorded = SubjectRecord.from_manifest(run.manifest["subject"])
            perturbed.learnt(self._subject(recorded), self.clean_photos)
        return run

    def _run(self, write: bool) -> Run:
        self._check_options()
        if self.model is None:
            return self._protect_run()
        from apdm_cli.harness.arms import external_run

        assert self.class_noun is not None  # `_check_options` has seen to it
        subject = SubjectRecord.read(
            default_name(self.photos, self.class_noun),
            check_word(self.class_noun, "--subject-class"),
            check_word(self.identifier or "sks", "--identifier"),
            self.photos,
        )
        manifest = subject.as_manifest()
        return external_run(
            self.root,
            self.model,
            self.original,
            self.known,
            write=write,
            subject=manifest,
            seed=0,
        )


def _label(protected: SubjectRecord, attacked: SubjectRecord, clean_photos: int) -> str:
    """What the attacker has or says that the protector did not: "unseen photos"."""
    parts = []
    if not attacked.digests & protected.digests:
        parts.append("unseen photos")
    elif attacked.digests - protected.digests:
        parts.append("mixed photos")
    elif protected.digests - attacked.digests:
        parts.append(f"{len(attacked.files)} of {len(protected.digests)} photos")
    if attacked.class_noun != protected.class_noun:
        parts.append(f"class {attacked.class_noun}")
    if attacked.identifier != protected.identifier:
        parts.append(f"identifier {attacked.identifier}")
    if clean_photos:
        parts.append(f"{clean_photos} clean photo{'s' if clean_photos > 1 else ''}")
    return ", ".join(parts)
