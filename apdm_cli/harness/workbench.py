"""What an attack works with: its own copy of the model, the subject, and THE training loop."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from apdm_cli.diffusion.latents import LatentDistribution
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.picture_cache import class_pictures
from apdm_cli.diffusion.pictures import from_unit, to_pixels
from apdm_cli.diffusion.sampling import SamplerSettings, sample
from apdm_cli.diffusion.words import check_vocabulary
from apdm_cli.errors import ApdmError
from apdm_cli.extension.attack import AttackConfig, Trainable
from apdm_cli.harness.phases import Phase
from apdm_cli.harness.watching import Silent, Watcher
from apdm_cli.personalization.averaging import WeightAverage
from apdm_cli.personalization.loop import Step, train
from apdm_cli.personalization.objective import personalization_loss
from apdm_cli.personalization.optimizers import make_optimizer
from apdm_cli.randomness import Streams
from apdm_cli.runs.due import Due
from apdm_cli.runs.interrupts import Stopped, StopSignals
from apdm_cli.runs.jsonl import StepLog, read_rows
from apdm_cli.subject import Subject

if TYPE_CHECKING:
    from torch.nn import Parameter

LOSSES = "losses.jsonl"
Judge = Callable[[DiffusionModel, Tensor], Callable[[Tensor], float] | None]
# The attacker draws class pictures of its own; protection and evaluation use other seeds.
PRIOR_SEED = 100
VALIDATION_BATCH, VALIDATION_BATCHES = 8, 4


@dataclass
class Workbench:
    """The things one attack may use in one cell.

    Attributes:
        base: the attacked model; never trained.
        subject: what the attacker has: photos (transformed already) and words.
        seed: of the cell.
        folder: of the cell; the artifact and the loss curve lie there.
        cache: folder for class pictures.
        load_original: the model before any protection, for attackers who have it; or None.
        judge: (attacked model, photos uint8 (N, H, W, 3)) → a function from pictures to their mean
            similarity to the photos, or None where no extractor is here. The attacker's own signal.
        watcher: sees every step.
        signals: noted here, a stop writes a checkpoint first.
        checkpoint_every: steps between checkpoints; 0 is once a minute.
        model: a private copy of `base`, frozen; the attack chooses what trains.
        streams: named randomness of the cell.
        steps_taken: optimizer steps so far.
        prompt_word: of what was trained last.
        results: what the attack wants in the manifest's summary.
    """

    base: DiffusionModel
    subject: Subject
    seed: int
    folder: Path
    cache: Path
    load_original: Callable[[], DiffusionModel | None] = lambda: None
    judge: Judge | None = None
    watcher: Watcher = field(default_factory=Silent)
    signals: StopSignals = field(default_factory=StopSignals)
    checkpoint_every: int = 0
    model: DiffusionModel = field(init=False)
    streams: Streams = field(init=False)
    steps_taken: int = field(default=0, init=False)
    prompt_word: str = field(default="", init=False)
    results: dict[str, Any] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.streams = Streams(self.seed)
        self.artifact_folder = self.new_folder("artifact")
        self._photos = self.base.encode_pixels(self.subject.photos.pixels)
        self._due = Due(self.checkpoint_every)
        self._phases = 0
        # Steps that an interrupted try took: taken again, they are the same, and not written twice.
        self._logged = len(read_rows(self.folder / LOSSES))
        self.restart()

    def restart(self) -> DiffusionModel:
        """Throw the private copy away and take a new one of the attacked model."""
        self.model = self.base.private_copy()
        for name in (self.model.family.trained, *self.model.family.text_encoders):
            self.model.component(name).requires_grad_(False)
        return self.model

    def new_folder(self, name: str) -> Path:
        """An empty folder `name` inside the cell, for artifacts beside the final one."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def personalize(
        self,
        trainable: Trainable,
        config: AttackConfig,
        learning_rate: Callable[[int], float],
        *,
        label: str = "attack",
        photos: LatentDistribution | None = None,
    ) -> list[float]:
        """Train `trainable` on the subject with DreamBooth's objective; returns every loss.

        Args:
            learning_rate: of step 0 ... config.steps − 1.
            label: names the phase in the loss curve, and its random streams.
            photos: latents to train on instead of all of the subject's.

        Raises:
            ApdmError: parameters that do not require grad.
            NonFiniteLoss: the loss became NaN or infinite.
            Stopped: a signal arrived; there is a checkpoint.
        """
        parameters = _checked(trainable)
        self.prompt_word = trainable.prompt_word()
        loss = self.loss(trainable, config, label=label, photos=photos)
        optimizer = make_optimizer(config.optimizer, (0.9, 0.999), config.weight_decay)
        phase = Phase(
            self.folder / "checkpoints" / Phase.name(self._phases, label),
            parameters,
            optimizer(parameters, config.learning_rate),
            self.streams,
            WeightAverage(parameters, config.ema) if config.ema > 0 else None,
        )
        self._phases += 1
        self._run(phase, loss, config, learning_rate, label)
        if phase.average is not None:
            phase.average.apply()
        start = self.steps_taken
        self.steps_taken += config.steps
        # From the log, so that a resumed phase returns what an uninterrupted one does.
        rows = read_rows(self.folder / LOSSES)[start : self.steps_taken]
        return [row["loss"] for row in rows]

    def loss(
        self,
        trainable: Trainable,
        config: AttackConfig,
        *,
        label: str,
        photos: LatentDistribution | None = None,
    ) -> Callable[[], Tensor]:
        """DreamBooth's objective on this bench's model; calling it draws a batch."""
        prior = self.prior(config) if config.prior_weight > 0 else None
        check_vocabulary(self.model, self.subject.class_noun, trainable.prompt_word())
        return personalization_loss(
            trainable,
            config,
            self.model,
            self.subject,
            photos or self._photos,
            prior,
            self.streams,
            label,
        )

    def prior(self, config: AttackConfig) -> LatentDistribution:
        """Class pictures that the attacked model draws of itself, encoded."""
        return self.draw_class(self.base, config)

    def draw_class(self, model: DiffusionModel, config: AttackConfig) -> LatentDistribution:
        """Class pictures drawn by `model`, encoded; cached on disk by the model's digest."""
        pictures = class_pictures(
            model,
            self.subject.class_prompt,
            config.prior_pictures,
            _sampler(model, config),
            self.cache,
            PRIOR_SEED + self.seed,
        )
        return self.base.encode_pixels(to_pixels(pictures))

    @torch.no_grad()
    def validation_loss(
        self, trainable: Trainable, config: AttackConfig, photos: LatentDistribution
    ) -> float:
        """Denoising loss on `photos` without prior preservation; equal noise for every model."""
        streams = self.streams
        self.streams = Streams(self.seed)
        changes = {"prior_weight": 0.0, "batch_size": VALIDATION_BATCH, "min_snr_gamma": 0.0}
        loss = self.loss(
            trainable, config.model_copy(update=changes), label="validation", photos=photos
        )
        value = sum(loss().item() for _ in range(VALIDATION_BATCHES)) / VALIDATION_BATCHES
        self.streams = streams
        return value

    @cached_property
    def similarity(self) -> Callable[[Tensor], float] | None:
        """Mean similarity of pictures uint8 (N, H, W, 3) to the attacker's photos, if possible."""
        if self.judge is None:
            return None
        return self.judge(self.base, from_unit(self.subject.photos.pixels / 2 + 0.5))

    def similarity_of(self, trainable: Trainable, config: AttackConfig, count: int) -> float | None:
        """Draw `count` pictures with the trained model and compare them to the photos."""
        if self.similarity is None:
            return None
        prompt = replace(self.subject, identifier=trainable.prompt_word()).personal_prompt
        seeds = [PRIOR_SEED + index for index in range(count)]
        pictures = torch.cat(
            list(sample(self.model, [prompt] * count, seeds, _sampler(self.model, config)))
        )
        return self.similarity(pictures)

    @property
    def photos(self) -> LatentDistribution:
        """Latents of the attacker's photos. They stay in memory."""
        return self._photos

    def _run(
        self,
        phase: Phase,
        loss: Callable[[], Tensor],
        config: AttackConfig,
        learning_rate: Callable[[int], float],
        label: str,
    ) -> None:
        first = phase.restore()
        self.watcher.phase(label, config.steps)
        with StepLog(self.folder / LOSSES) as log:
            for step in train(
                loss,
                list(phase.parameters),
                phase.optimizer,
                range(first, config.steps),
                learning_rate,
                max_grad_norm=config.max_grad_norm,
                accumulation=config.accumulation,
            ):
                if phase.average is not None:
                    phase.average.update(step.index)
                self._note(log, label, step)
                self._checkpoint(phase, log, step.index + 1)

    def _note(self, log: StepLog, label: str, step: Step) -> None:
        number = self.steps_taken + step.index
        if number >= self._logged:
            row = {"phase": label, "step": number, "index": step.index}
            log.append({**row, "loss": step.loss, "learning_rate": step.learning_rate})
        self.watcher.step(label, step)

    def _checkpoint(self, phase: Phase, log: StepLog, done: int) -> None:
        if self._due(done) or self.signals.received:
            log.sync()
            phase.save(done)
        if self.signals.received:
            raise Stopped(
                "the attack was stopped; nothing is lost",
                "Go on with the same command.",
            )


def _checked(trainable: Trainable) -> list[Parameter]:
    parameters = list(trainable.parameters())
    frozen = [p for p in parameters if not p.requires_grad]
    if not parameters or frozen:
        found = f"{len(frozen)} of {len(parameters)} parameters do not require grad"
        raise ApdmError(
            f"the attack cannot train: {found if parameters else 'it names no parameters'}",
            "Its `trainable` must call requires_grad_(True) on what `parameters` returns.",
        )
    return parameters


def _sampler(model: DiffusionModel, config: AttackConfig) -> SamplerSettings:
    return SamplerSettings(
        sampler=model.family.defaults.class_sampler,
        steps=config.sampler_steps,
        guidance=config.sampler_guidance,
    )
