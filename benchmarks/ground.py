"""What the pocket benchmarks stand on: held-out identities, and `apdm`'s own functions on them.

An identity is rendered as photos in a folder; it is protected, attacked and evaluated by what the
commands call, in this process, with what a user would get: presets, the profile's attack, cells
that are never done twice, and one set of cells of the original for all protections.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apdm_cli.config import merge, resolve
from apdm_cli.diffusion.pictures import read_png
from apdm_cli.digests import folder_digest
from apdm_cli.errors import ApdmError
from apdm_cli.evaluation.bounds import bound_rows
from apdm_cli.evaluation.drawing import attack_drawing
from apdm_cli.evaluation.evaluate import evaluate_run
from apdm_cli.evaluation.profiles import EvaluationSettings
from apdm_cli.evaluation.scoring import Panel, open_panel, photo_pictures
from apdm_cli.evaluation.session import Session
from apdm_cli.extension.manager import (
    PluginManager,
    attacks,
    build_plugin_manager,
    choose,
    families,
    metrics,
    registered_attacks,
    registered_protections,
)
from apdm_cli.extension.metric import Pictures
from apdm_cli.extension.protection import Protection
from apdm_cli.harness.arms import Arms, external_run
from apdm_cli.harness.execute import Execution, SilentObserver
from apdm_cli.harness.judge import make_judge
from apdm_cli.harness.plan import PlannedCell, make_jobs, plan_cells
from apdm_cli.harness.request import AttackRequest
from apdm_cli.harness.suites import SuiteEntry
from apdm_cli.pocket.profile import SOURCE, pocket_folder
from apdm_cli.progress import Silent
from apdm_cli.protection.asked import AskedSubject
from apdm_cli.protection.request import ProtectRequest
from apdm_cli.protection.run import protect
from apdm_cli.runs.atomic import new_folder
from apdm_cli.runs.manifest import read_json, write_json_atomic
from apdm_cli.runs.run import DONE, Run
from apdm_cli.scores import ScoreRow, ScoresFile, attack_label
from apdm_cli.subject import Subject, SubjectRecord
from pocket_training.renderer import identity, photo

ROOT = Path(tempfile.gettempdir()) / "apdm-benchmarks"
CPU = torch.device("cpu")
PHOTOS = 4
SEEN, UNSEEN = "seen", "unseen"
SIMILARITY, DISTANCE, SAME_SEED = "dino", "fid", "same-seed"
IDENTIFIER = "sks"
METHOD = "apdm"  # where nothing says which protection
RECIPES = "recipes"  # of a question's suite, in the table of JSON


@dataclass(frozen=True)
class Person:
    """Who is protected, and who else is taught to the protected model.

    Attributes:
        class_noun: "person", "dog" or "cat".
        seed, other, further: identity seeds, all held out: no training ever saw them.
    """

    class_noun: str
    seed: int
    other: int
    further: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """`person-1000440`."""
        return f"{self.class_noun}-{self.seed}"

    @property
    def others(self) -> dict[str, int]:
        """Name → identity seed of everybody else who is taught to the protected model."""
        return {f"{self.class_noun}-{seed}": seed for seed in (self.other, *self.further)}


@dataclass(frozen=True)
class Question:
    """An attack that both models are put to.

    Attributes:
        name: how the results call it.
        seeds: of the attack, a training each.
        budgets: multiples of the attack's steps at which it is looked at.
        photos: "seen" (those that were protected), "unseen" ones of the same identity, or "other":
            of everybody else who should stay teachable, one after another.
        attack: name of the attack.
        settings: over the profile's.
        suite: a suite in the place of one attack. Every attack of it is a question of its own, with
            the name that tables give it, and the budgets are the suite's. One that fails is left
            out.
    """

    name: str
    seeds: tuple[int, ...]
    budgets: tuple[float, ...] = (1.0,)
    photos: str = SEEN
    attack: str = "dreambooth"
    settings: Mapping[str, Any] = field(default_factory=dict)
    suite: str | None = None

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> Question:
        """From a table of JSON, which knows no tuples, and says what a suite holds."""
        lists = {key: tuple(table[key]) for key in ("seeds", "budgets")}
        return cls(**{key: value for key, value in {**table, **lists}.items() if key != RECIPES})


@dataclass(frozen=True)
class Ground:
    """A folder with photos and runs.

    Attributes:
        images: pictures drawn with every attacked model.
        class_images: ordinary pictures of the class drawn with every model.
        sampler_steps: of every picture; None is the profile's.
    """

    root: Path = ROOT
    images: int = 16
    class_images: int = 256
    sampler_steps: int | None = None

    @property
    def runs(self) -> Path:
        """The folder of all runs, as `--out` names it."""
        return self.root / "runs"

    @cached_property
    def plugins(self) -> PluginManager:
        """The installed plugins."""
        return build_plugin_manager()

    @cached_property
    def settings(self) -> EvaluationSettings:
        """How pictures are drawn and scored."""
        return resolve(
            EvaluationSettings,
            {
                "metrics": (SIMILARITY, DISTANCE, SAME_SEED),
                "images": self.images,
                "class_images": self.class_images,
                "steps": self.sampler_steps,
            },
        )

    def photos(self, class_noun: str, seed: int, which: str = SEEN) -> Path:
        """The folder with an identity's photos, rendered when first needed."""
        folder = self.root / "photos" / f"{class_noun}-{seed}" / which
        if not folder.is_dir():
            someone = identity(class_noun, seed)
            first = PHOTOS if which == UNSEEN else 0
            try:
                with new_folder(folder) as new:
                    for number in range(first, first + PHOTOS):
                        photo(someone, number).save(new / f"{number}.png")
            except ApdmError:
                if not folder.is_dir():  # else another process rendered them meanwhile
                    raise
        return folder

    def protect(
        self,
        person: Person,
        settings: Mapping[str, Any],
        name: str,
        seed: int,
        method: str = METHOD,
    ) -> Run:
        """The run `name`: `person` protected with whole `settings` of `method`.

        One that was interrupted goes on, one that is finished is found again.
        """
        return self.protect_together((person,), settings, name, seed, method)

    def protect_together(
        self,
        people: Sequence[Person],
        settings: Mapping[str, Any],
        name: str,
        seed: int,
        method: str = METHOD,
        onto: Run | None = None,
        keep_attackers: int | None = None,
    ) -> Run:
        """`protect`, of all `people` at once; what is asked is the view for one of them.

        Args:
            onto: the run that they are added to.
            keep_attackers: rank at which the run keeps where its attackers were.
        """
        state = next((run.status for run in Run.all(self.runs) if run.name == name), None)
        if state != DONE:
            protection = choose(registered_protections(self.plugins), method, "protection")
            chosen = resolve(protection.item.Config, settings)
            named = len(people) > 1 or onto is not None
            request = ProtectRequest(
                method=protection,
                subjects=tuple(
                    AskedSubject(
                        (self.photos(person.class_noun, person.seed),),
                        person.class_noun,
                        IDENTIFIER,
                        person.name if named else "",
                    )
                    for person in people
                ),
                model=SOURCE if onto is None else str(onto.model),
                onto=onto,
                revision=None,
                name=name,
                root=self.runs,
                preset="",
                settings=chosen,
                seed=seed,
                device=CPU,
                dtype=torch.float32,
                attacks=attacks(self.plugins),
                known=families(self.plugins),
                keep_attackers=keep_attackers,
            )
            started = time.process_time()
            protect(request, Silent(), resume=state is not None)
            if state is None:  # of one that was interrupted, the first part is not known
                spent = round(time.process_time() - started, 1)
                self._seconds(name).parent.mkdir(parents=True, exist_ok=True)
                write_json_atomic(self._seconds(name), {"processor_seconds": spent})
        return Run.open(self.runs, name)

    def processor_seconds(self, run: Run) -> float | None:
        """What protecting took: seconds of one thread on an idle core; None if interrupted.

        Seconds on the clock are in the manifest; they say how busy the machine was, too.
        """
        file = self._seconds(run.path.name)
        return float(read_json(file)["processor_seconds"]) if file.is_file() else None

    def _seconds(self, name: str) -> Path:
        return self.root / "seconds" / f"{name}.json"

    def original(self, person: Person, source: str | None = None) -> Run:
        """A run without protection, to attack the original with the photos of `person`.

        Args:
            source: folder of another model than the embedded one.
        """
        return external_run(
            self.runs,
            source or str(pocket_folder()),
            None,
            families(self.plugins),
            subject=self._record(person.class_noun, person.seed).as_manifest(),
            seed=0,
        )

    def ask(self, run: Run, person: Person, questions: Iterable[Question]) -> dict[str, str]:
        """Put the models of `run` to all questions; returns cell key → name of the question.

        Raises:
            ApdmError: a cell failed that is not of a suite.
        """
        asked: dict[str, str] = {}
        for question in questions:
            cells, arms = self._cells(run, person, question)
            execution = Execution(
                arms,
                self.runs,
                SilentObserver(),
                judge=make_judge(metrics(self.plugins)),
                attacks=attacks(self.plugins),
            )
            for outcome in execution.run(cells):
                planned = outcome.planned
                if outcome.status != "failed":
                    named = attack_label(planned.job.name, planned.job.variant)
                    asked[planned.cell.key] = named if question.suite else question.name
                elif question.suite is None:
                    raise ApdmError(f"{planned.title}: {outcome.error}", outcome.hint)
        return asked

    def _cells(
        self, run: Run, person: Person, question: Question
    ) -> tuple[list[PlannedCell], Arms]:
        drawing = attack_drawing(self.settings)
        if question.photos == "other":
            # Somebody else has another name: that is how an evaluation tells them apart.
            arms = Arms(run, CPU, torch.float32, families(self.plugins))
            jobs = [
                job
                for other in person.others.values()
                for job in make_jobs(
                    registered_attacks(self.plugins),
                    [SuiteEntry(name=question.attack, budgets=question.budgets)],
                    settings=({question.attack: dict(question.settings)},),
                    subject=self._record(person.class_noun, other),
                    transforms=(),
                    seeds=question.seeds,
                    profile=arms.profile(),
                )
            ]
            return plan_cells(jobs, arms, self.runs, drawing=drawing), arms
        unseen = question.photos == UNSEEN
        request = AttackRequest(
            root=self.runs,
            device=CPU,
            dtype=torch.float32,
            run=run.name,
            plugins=() if question.suite else (question.attack,),
            suite=question.suite,
            photos=(self.photos(person.class_noun, person.seed, UNSEEN),) if unseen else (),
            seeds=question.seeds,
            settings=() if question.suite else ({question.attack: dict(question.settings)},),
            budgets=None if question.suite else question.budgets,
            known=families(self.plugins),
        )
        arms, cells, _ = request.plan(registered_attacks(self.plugins), drawing)
        return cells, arms

    def evaluate(self, run: Run) -> ScoresFile:
        """Draw and score everything that `run` has."""
        return evaluate_run(self.runs, run, self.settings, plugins=self.plugins)

    def pictures(self, run: Run, row: ScoreRow) -> Tensor:
        """The pictures behind a row of scores, uint8 (N, R, R, 3)."""
        assert row.images is not None
        files = sorted((run.path / row.images).glob("*.png"))[: len(row.prompts)]
        return torch.stack([found for file in files if (found := read_png(file)) is not None])

    def bounds(self, run: Run, class_noun: str, seed: int) -> tuple[float, float]:
        """Floor and ceiling of the similarity to an identity's photos.

        As an evaluation has them, with all class pictures in the floor.
        """
        session, panel = self._panel(run)
        rows = bound_rows(session, panel, self._subject(session, class_noun, seed))
        value = {row.role: row.scores[0].value for row in rows}
        return value["floor"], value["ceiling"]

    def likeness(self, run: Run, class_noun: str, seed: int, other: int) -> float:
        """Similarity of the photos of the identity `other` to those of the identity `seed`."""
        session, panel = self._panel(run)
        shown, photos = (
            photo_pictures(self._subject(session, class_noun, who).photos) for who in (other, seed)
        )
        (score,) = panel.scores(Pictures(images=shown, photos=photos), "photos")
        return score.value

    def _panel(self, run: Run) -> tuple[Session, Panel]:
        settings = self.settings.model_copy(update={"images": self.class_images})
        arms = Arms(run, CPU, torch.float32, families(self.plugins))
        session = Session(self.runs, arms, settings, plugins=self.plugins)
        panel = open_panel((SIMILARITY,), session.model, {}, metrics(self.plugins))
        return session, panel

    def _subject(self, session: Session, class_noun: str, seed: int) -> Subject:
        return self._record(class_noun, seed).load(session.model.resolution)

    def _record(self, class_noun: str, seed: int) -> SubjectRecord:
        """An identity's photos under its own name, by which an evaluation tells people apart."""
        folder = self.photos(class_noun, seed)
        return SubjectRecord.read(f"{class_noun}-{seed}", class_noun, IDENTIFIER, [folder])


def whole_settings(settings: Mapping[str, Any], method: str = METHOD) -> dict[str, Any]:
    """`settings` over the preset that their key "preset" names (`pocket` without one), all of it.

    A preset may change after a job; the job then is another one.
    """
    protection = _protection(method)
    overrides = dict(settings)
    preset = protection.preset(overrides.pop("preset", "pocket"))
    return dict(resolve(protection.Config, merge(preset, overrides)).description())


@cache
def _protection(method: str) -> Protection:
    return choose(registered_protections(build_plugin_manager()), method, "protection").item


@cache
def weights() -> str:
    """Digest of the embedded weights, shortened: no log answers for another model."""
    return folder_digest(pocket_folder())[:12]


def digest(value: Any) -> str:
    """Eight digits that tell values of JSON apart."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def kept(row: ScoreRow, question: str | None) -> dict[str, Any]:
    """A row of scores for the results: without its pictures and prompts.

    Of an attack's pictures each one's value stays, so that intervals can be computed again.
    """
    table = row.model_dump(mode="json", exclude={"images", "prompts"})
    if row.role not in ("attack", "neighbour"):
        for score in table["scores"]:
            del score["per_picture"]
    return {"question": question, **table}


def keep_all(rows: Sequence[ScoreRow], asked: Mapping[str, str]) -> list[dict[str, Any]]:
    """`kept` of every row that belongs to a question, or to none."""
    return [
        kept(row, asked.get(row.cell or ""))
        for row in rows
        if row.cell is None or row.cell in asked
    ]
