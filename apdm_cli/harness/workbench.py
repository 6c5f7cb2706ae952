"""What an attack works with: its own copy of the model, the subject, and THE training loop."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apdm_cli.diffusion.clip_skip import skip_layers
from apdm_cli.diffusion.latents import LatentDistribution
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.picture_cache import class_pictures, gallery, is_kept
from apdm_cli.diffusion.pictures import from_unit, to_pixels
from apdm_cli.diffusion.sampling import SamplerSettings, sample
from apdm_cli.diffusion.words import check_vocabulary
from apdm_cli.errors import UsageError
from apdm_cli.extension.attack import Attack, AttackConfig, Personalization
from apdm_cli.extension.manager import attacks, build_plugin_manager, choose
from apdm_cli.harness.artifacts import load_attacked
from apdm_cli.harness.pace import Pace
from apdm_cli.harness.phases import Phase
from apdm_cli.harness.stops import SAVED, Drawing, is_drawn, stop_folder
from apdm_cli.personalization.averaging import WeightAverage, exponential
from apdm_cli.personalization.loop import NonFiniteLoss, Step, train
from apdm_cli.progress import Progress, Silent
from apdm_cli.randomness import Streams
from apdm_cli.runs.clock import Clock
from apdm_cli.runs.due import Due
from apdm_cli.runs.interrupts import Stopped, StopSignals
from apdm_cli.runs.jsonl import StepLog, read_rows
from apdm_cli.subject import Subject

LOSSES = "losses.jsonl"
Judge = Callable[[DiffusionModel, Tensor], Callable[[Tensor], float] | None]
# The attacker draws class pictures of its own; protection and evaluation use other seeds.
PRIOR_SEED = 100
VALIDATION_BATCHES = 4
# The loss that is compared: the same for whatever an attack trains with.
PLAIN = {
    **{"batch_size": 8, "prior_weight": 0.0, "min_snr_gamma": 0.0, "huber": 0.0},
    **{"noise_offset": 0.0, "multires_noise": 0.0, "captions": False, "caption_dropout": 0.0},
    "masks": False,
}


@dataclass
class Workbench:
    """The things one attack may use in one cell: the `Bench` of `apdm_cli.extension.attack`.

    Attributes:
        seed: of the cell.
        folder: of the cell; the artifact and the loss curve lie there.
        cache: folder for class pictures.
        load_original: the model before any protection, for attackers who have it; or None.
        judge: (attacked model, photos uint8 (N, H, W, 3)) → a function from pictures to their mean
            similarity to the photos, or None where no extractor is here. The attacker's own signal.
        attacks: those that an attack may be made of, by name; None is every installed one.
        progress: sees every step and every picture.
        signals: noted here, a stop writes a checkpoint first.
        checkpoint_every: steps between checkpoints; 0 is once a minute.
        budgets: multiples of the attack's steps, ascending; the attack is looked at there.
        drawing: the pictures that are drawn at every budget but the last, whose artifact stays.
        verify: raises where `base` is not what it was: nothing is drawn into the cache then.
        events: whether TensorBoard's event files are written beside the losses.
        clock: how long the cell takes.
        latents: of the subject's photos; they are encoded, if None.
        steps_taken: optimizer steps so far.
        stopped: budget → optimizer steps taken by then.
        prompt_word: of what was trained last.
        pace: how long steps and pictures took here.
    """

    base: DiffusionModel
    subject: Subject
    seed: int
    folder: Path
    cache: Path
    load_original: Callable[[], DiffusionModel | None] = lambda: None
    judge: Judge | None = None
    attacks: Mapping[str, Attack] | None = None
    progress: Progress = field(default_factory=Silent)
    signals: StopSignals = field(default_factory=StopSignals)
    checkpoint_every: int = 0
    budgets: tuple[float, ...] = (1.0,)
    drawing: Drawing | None = None
    verify: Callable[[], None] = lambda: None
    events: bool = False
    clock: Clock = field(default_factory=Clock)
    latents: LatentDistribution | None = None
    streams: Streams = field(init=False)
    artifact_folder: Path = field(init=False)
    steps_taken: int = field(default=0, init=False)
    stopped: dict[float, int] = field(default_factory=dict, init=False)
    prompt_word: str = field(default="", init=False)
    results: dict[str, Any] = field(default_factory=dict, init=False)
    pace: Pace = field(default_factory=Pace, init=False)
    _model: DiffusionModel | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.streams = Streams(self.seed)
        self.artifact_folder = self.new_folder("artifact")
        photos = self.subject.photos
        latents = self.latents or self.base.encode_pixels(photos.pixels)
        self._photos = replace(latents, captions=photos.captions)
        if photos.masks is not None:  # of squares: those of other shapes come with their latents
            self._photos = self._photos.with_masks(photos.masks)
        self._due = Due(self.checkpoint_every)
        self._phases = 0
        # Steps that an interrupted try took: taken again, they are the same, and not written twice.
        self._logged = len(read_rows(self.folder / LOSSES))

    @property
    def model(self) -> DiffusionModel:
        """The private copy of the attacked model, made when it is first wanted."""
        return self.restart() if self._model is None else self._model

    @property
    def photos(self) -> LatentDistribution:
        """Latents of the attacker's photos. They stay in memory."""
        return self._photos

    def restart(self) -> DiffusionModel:
        """Throw the private copy away and take a new one of the attacked model."""
        made = self._model = self.base.private_copy()
        for name in (made.family.trained, *made.family.text_encoders):
            made.component(name).requires_grad_(False)
        return made

    def new_folder(self, name: str) -> Path:
        """An empty folder `name` inside the cell, for artifacts beside the final one."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def attack(self, name: str) -> Attack:
        """The registered attack called `name`; UsageError, naming the nearest, without one."""
        if self.attacks is None:
            self.attacks = attacks(build_plugin_manager())
        return choose(self.attacks, name)

    def personalization(
        self, attack: Attack, config: Any, subject: Subject | None = None
    ) -> Personalization:
        """Let `attack` prepare `model`, which it then trains on `subject` (else the bench's)."""
        chosen = subject or self.subject
        config = attack.prepare(self, config)
        skip_layers(self.model, config.clip_skip)
        trainable = attack.trainable(self.model, chosen, config)
        return Personalization(attack, config, self.model, chosen, trainable)

    def stops(self, steps: int) -> dict[int, float]:
        """Where the budgets of an attack of `steps` steps are spent: step → budget, ascending.

        Raises:
            UsageError: two budgets are spent at the same step.
        """
        stops = {max(1, round(budget * steps)): budget for budget in self.budgets}
        if len(stops) < len(self.budgets):
            shown = ", ".join(f"{budget:g}" for budget in self.budgets)
            raise UsageError(
                f"--budgets {shown}: an attack of {steps} steps cannot tell them apart",
                "Use budgets that are further apart, or more steps.",
            )
        return stops

    def train(
        self,
        personalization: Personalization,
        *,
        label: str = "attack",
        photos: LatentDistribution | None = None,
        steps: int | None = None,
        stops: Mapping[int, float] | None = None,
    ) -> list[float]:
        """Train as `Bench.train` says; returns the loss of every step.

        Raises:
            ApdmError: parameters that do not require grad.
            NonFiniteLoss: the loss became NaN or infinite.
            Stopped: a signal arrived; there is a checkpoint.
        """
        config, parameters = personalization.config, personalization.parameters
        stops = stops or {}
        if steps is None:
            steps = max(stops) if stops else int(config.steps)
        self.prompt_word = personalization.trainable.prompt_word()
        loss = self._loss(personalization, label, photos or self._photos)
        phase = Phase(
            self.folder / "checkpoints" / Phase.name(self._phases, label),
            parameters,
            personalization.optimizer(),
            self.streams,
            WeightAverage(parameters, exponential(config.ema)) if config.ema > 0 else None,
            self.clock,
        )
        self._phases += 1
        try:
            self._run(phase, loss, personalization, label, steps, stops)
        except NonFiniteLoss as error:
            self.steps_taken += error.step  # an attack that goes on has spent them
            raise
        if phase.average is not None:
            phase.average.apply()
        start = self.steps_taken
        self.steps_taken += steps
        # From the log, so that a resumed phase returns what an uninterrupted one does.
        rows = read_rows(self.folder / LOSSES)[start : self.steps_taken]
        return [row["loss"] for row in rows]

    def prior(self, config: AttackConfig) -> LatentDistribution:
        """Class pictures that the attacked model draws of itself, encoded."""
        return self.draw_class(self.base, config)

    def draw_class(self, model: DiffusionModel, config: AttackConfig) -> LatentDistribution:
        """Class pictures drawn by `model`, encoded; cached on disk by the model's digest."""
        self.verify()
        self.progress.stage("class pictures", config.prior_pictures, unit="pictures")
        pictures = class_pictures(
            model,
            self.subject.class_prompt,
            config.prior_pictures,
            _sampler(model, config),
            self.cache,
            PRIOR_SEED + self.seed,
            drawn=self.drawn,
        )
        return self.base.encode_pixels(to_pixels(pictures))

    @torch.no_grad()
    def validation_loss(
        self, personalization: Personalization, photos: LatentDistribution
    ) -> float:
        """Denoising loss on `photos` without prior preservation; equal noise for every model."""
        streams = self.streams
        self.streams = Streams(self.seed)
        config = personalization.config.model_copy(update=PLAIN)
        plain = replace(personalization, config=config)
        loss = self._loss(plain, "validation", photos)
        value = sum(loss().item() for _ in range(VALIDATION_BATCHES)) / VALIDATION_BATCHES
        self.streams = streams
        return value

    @cached_property
    def similarity(self) -> Callable[[Tensor], float] | None:
        """Mean similarity of pictures uint8 (N, H, W, 3) to the attacker's photos, if possible."""
        if self.judge is None:
            return None
        return self.judge(self.base, from_unit(self.subject.photos.pixels / 2 + 0.5))

    def similarity_of(self, personalization: Personalization, count: int) -> float | None:
        """Draw `count` pictures with the trained model and compare them to the photos."""
        if self.similarity is None:
            return None
        word = personalization.trainable.prompt_word()
        prompt = replace(self.subject, identifier=word).personal_prompt
        seeds = [PRIOR_SEED + index for index in range(count)]
        settings = _sampler(self.model, personalization.config)
        pictures = torch.cat(list(sample(self.model, [prompt] * count, seeds, settings)))
        return self.similarity(pictures)

    def _loss(
        self, personalization: Personalization, label: str, photos: LatentDistribution
    ) -> Callable[[], Tensor]:
        config = personalization.config
        prior = self.prior(config) if config.prior_weight > 0 else None
        word = personalization.trainable.prompt_word()
        check_vocabulary(self.model, self.subject.class_noun, word)
        return personalization.loss(photos, prior, self.streams, label)

    def _run(
        self,
        phase: Phase,
        loss: Callable[[], Tensor],
        personalization: Personalization,
        label: str,
        steps: int,
        stops: Mapping[int, float],
    ) -> None:
        config = personalization.config
        first = phase.restore(lambda done: done <= steps and self._all_drawn(stops, done))
        self.progress.stage(label, steps, first)
        self.stopped |= {budget: self.steps_taken + end for end, budget in stops.items()}
        if first in stops and not self._all_drawn(stops, first + 1):  # stopped while it was drawn
            self._look(phase, personalization, stops[first])
            self.progress.stage(label, steps, first)
        with StepLog(self.folder / LOSSES, events=self.events) as log:
            started = time.monotonic()
            for step in train(
                loss,
                list(phase.parameters),
                phase.optimizer,
                range(first, steps),
                personalization.learning_rate,
                max_grad_norm=config.max_grad_norm,
                accumulation=config.accumulation,
            ):
                self.pace.step(time.monotonic() - started)
                if phase.average is not None:
                    phase.average.update(step.index)
                self._note(log, label, step)
                done = step.index + 1
                if done in stops and self._is_looked_at(stops[done]):
                    try:
                        self._look(phase, personalization, stops[done])
                    except Stopped:
                        log.sync()
                        phase.save(done)
                        raise
                    self.progress.stage(label, steps, done)
                self._checkpoint(phase, log, done)
                started = time.monotonic()

    def _is_looked_at(self, budget: float) -> bool:
        # Of the last budget the artifact itself stays, from which anything can be drawn.
        return self.drawing is not None and budget != max(self.budgets)

    def _look(self, phase: Phase, personalization: Personalization, budget: float) -> None:
        """Draw what the attacked model shows now, from the artifact that it would leave."""
        assert self.drawing is not None
        saved = self.new_folder(SAVED)
        with _averaged(phase):
            artifact = personalization.save(saved)
        word = personalization.trainable.prompt_word()
        order = self.drawing.order(self.base, word, self.subject.class_noun)
        self.progress.stage(
            f"pictures at {budget:g} × the steps", len(order.prompts), unit="pictures"
        )
        folder = stop_folder(self.folder, budget)
        there = len(list(folder.glob("*.png"))) if is_kept(order, folder) else 0
        with self.pace.drawing(len(order.prompts) - there):
            gallery(
                order,
                folder,
                lambda: load_attacked(self.base, artifact, self.attacks),
                self.drawn,
            )
        shutil.rmtree(saved)

    def _all_drawn(self, stops: Mapping[int, float], done: int) -> bool:
        """Whether the stops before step `done` have their pictures, so that none is missed."""
        passed = [budget for step, budget in stops.items() if step < done]
        if self.drawing is None:
            return True
        order = self.drawing.order(self.base, self.prompt_word, self.subject.class_noun)
        return all(
            is_drawn(stop_folder(self.folder, budget), order)
            for budget in passed
            if self._is_looked_at(budget)
        )

    def _note(self, log: StepLog, label: str, step: Step) -> None:
        number = self.steps_taken + step.index
        if number >= self._logged:
            row = {"phase": label, "step": number, "index": step.index}
            log.append({**row, "loss": step.loss, "learning_rate": step.learning_rate})
        self.progress.advance(loss=step.loss)

    def drawn(self, count: int) -> None:
        """Pictures are written as they come: a signal stops between two batches of them."""
        self.progress.advance(count)
        if self.signals.received:
            raise Stopped(
                "The attack was stopped while pictures were drawn; those that are there are kept, "
                "and so is every step."
            )

    def _checkpoint(self, phase: Phase, log: StepLog, done: int) -> None:
        if self._due(done) or self.signals.received:
            log.sync()
            phase.save(done)
        if self.signals.received:
            raise Stopped(
                f"The attack was stopped after step {self.steps_taken + done}; nothing is lost."
            )


@contextmanager
def _averaged(phase: Phase) -> Iterator[None]:
    """The weights that the training would end with now: their average, where one is kept."""
    if phase.average is None:
        yield
        return
    current = [parameter.detach().clone() for parameter in phase.parameters]
    phase.average.apply()
    yield
    with torch.no_grad():
        for parameter, value in zip(phase.parameters, current, strict=True):
            parameter.copy_(value)


def _sampler(model: DiffusionModel, config: AttackConfig) -> SamplerSettings:
    return SamplerSettings(
        sampler=model.family.defaults.class_sampler,
        steps=config.sampler_steps,
        guidance=config.sampler_guidance,
    )
