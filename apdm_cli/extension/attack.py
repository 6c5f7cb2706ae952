"""What an attack is: which parameters train, and how they are saved. The harness does the rest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from apdm_cli.config import resolve
from apdm_cli.errors import ApdmError
from apdm_cli.personalization.schedules import scheduled
from apdm_cli.personalization.settings import AttackConfig
from apdm_cli.personalization.trainable import Artifact, Trainable

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter
    from torch.optim import Optimizer

    from apdm_cli.diffusion.latents import LatentDistribution
    from apdm_cli.diffusion.model import DiffusionModel
    from apdm_cli.randomness import Streams
    from apdm_cli.subject import Subject

__all__ = ["Artifact", "Attack", "AttackConfig", "Bench", "Personalization", "Trainable"]


class Attack(ABC):
    """One way to personalize a model to a subject.

    Attributes:
        name: as typed after --plugin; lower case, words joined by hyphens.
        Config: a pydantic model whose every field has a default and a description.
        profiles: other defaults per kind of model; "pocket" is used for the embedded model.
        kinds: kinds of artifact that `load` opens. The kinds of `Artifact` need none.
        leaves_network: whether the network's own weights stay as they are while adapters, copies
            or words beside them train. Then they may be held in few bits.
        leaves_displacement: whether what it learns of the network is a difference of the network's
            weights, because these train, or adapters of peft on them. A protection that simulates
            it can keep that (`--keep-attackers`). A word, or layers in the place of others, is
            none.
    """

    name: ClassVar[str]
    Config: ClassVar[type[AttackConfig]] = AttackConfig
    profiles: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    kinds: ClassVar[tuple[str, ...]] = ()
    leaves_network: ClassVar[bool] = False
    leaves_displacement: ClassVar[bool] = True

    @abstractmethod
    def trainable(self, model: DiffusionModel, subject: Subject, config: Any) -> Trainable:
        """Prepare `model`, which belongs to this attack alone, and say what trains."""

    def configure(
        self, profile: str, layers: Sequence[Mapping[str, Any]], attacks: Mapping[str, Attack]
    ) -> Any:
        """The options: the defaults of `profile` under `layers`, of which later ones win.

        Args:
            attacks: every attack by its name, for one that is made of another.

        Raises:
            UsageError: naming every unknown key and every bad value.
        """
        return resolve(self.Config, self.profiles.get(profile, {}), *layers)

    def prepare(self, bench: Bench, config: Any) -> Any:
        """Change the start or the options before a training; returns the options to train with.

        Nothing is changed unless this is overridden. `bench.model` may be moved, in place.
        """
        return config

    def loss(
        self,
        trainable: Trainable,
        config: Any,
        model: DiffusionModel,
        subject: Subject,
        photos: LatentDistribution,
        prior: LatentDistribution | None,
        streams: Streams,
        label: str,
    ) -> Callable[[], Tensor]:
        """What is minimized: a function that draws a batch and returns a scalar.

        DreamBooth's unless overridden; the arguments are those of `personalization_loss`.
        """
        from apdm_cli.personalization.objective import personalization_loss

        return personalization_loss(
            trainable, config, model, subject, photos, prior, streams, label
        )

    def learning_rate(self, step: int, config: Any) -> float:
        """Learning rate of step `step`, from 0: that of `schedule` and `warm_up`."""
        return scheduled(
            config.learning_rate,
            step,
            schedule=config.schedule,
            warm_up=config.warm_up,
            steps=config.steps,
        )

    def run(self, bench: Bench, config: Any) -> Artifact:
        """The whole attack: one personalization, unless overridden with several."""
        personalization = bench.personalization(self, config)
        bench.train(personalization, stops=bench.stops(config.steps))
        return personalization.save(bench.artifact_folder)

    def total_steps(self, config: Any) -> int:
        """Optimizer steps that `run` takes at most; says so where it trains several times."""
        return int(config.steps)

    @property
    def trains_once(self) -> bool:
        """Whether the attack is one personalization, which other attacks may be made of."""
        return type(self).run is Attack.run

    def continues(self, config: Any) -> bool:
        """Whether a budget of 3 is the same training, three times as long.

        Then one training serves every budget: it passes exactly through what a shorter one ends
        with, and is looked at on the way (`Bench.stops`). Otherwise (a search, a learning rate
        that falls towards the last step) every budget is a training of its own, with `steps`
        multiplied. True where neither `run` nor `learning_rate` is overridden and the schedule
        does not know its last step; whoever overrides them and knows better says so here.
        """
        same_rates = type(self).learning_rate is Attack.learning_rate
        return self.trains_once and same_rates and config.schedule == "constant"

    def load(self, model: DiffusionModel, folder: Path) -> DiffusionModel:
        """A model of its own with the artifact in `folder` applied; `model` stays as it is.

        Needed for the artifacts of `kinds` only.
        """
        raise ApdmError(f"the attack {self.name} does not say how its artifacts are opened")

    @property
    def summary(self) -> str:
        """One line of what it does: the first line of the class's docstring."""
        return (type(self).__doc__ or "").strip().partition("\n")[0]


@dataclass(frozen=True)
class Personalization:
    """One training of one model: an attack with its options, and the trained part.

    Attributes:
        model: a private copy, which `trainable` trains.
        subject: whom it learns.
    """

    attack: Attack
    config: Any
    model: DiffusionModel
    subject: Subject
    trainable: Trainable

    @property
    def parameters(self) -> list[Parameter]:
        """What the optimizer updates.

        Raises:
            ApdmError: there are none, or some that do not require grad.
        """
        parameters = list(self.trainable.parameters())
        frozen = [p for p in parameters if not p.requires_grad]
        if not parameters or frozen:
            found = f"{len(frozen)} of {len(parameters)} parameters do not require grad"
            raise ApdmError(
                f"the attack cannot train: {found if parameters else 'it names no parameters'}",
                "Its `trainable` must call requires_grad_(True) on what `parameters` returns.",
            )
        return parameters

    def loss(
        self,
        photos: LatentDistribution,
        prior: LatentDistribution | None,
        streams: Streams,
        label: str,
    ) -> Callable[[], Tensor]:
        """A function that draws a batch and returns a scalar; see `Attack.loss`."""
        return self.attack.loss(
            self.trainable, self.config, self.model, self.subject, photos, prior, streams, label
        )

    def optimizer(self) -> Optimizer:
        """A fresh one of the configured kind."""
        from apdm_cli.personalization.optimizers import make_optimizer

        config, betas = self.config, (0.9, 0.999)
        make = make_optimizer(config.optimizer, betas, config.weight_decay, config.prodigy_d0)
        groups = self.trainable.groups()
        chosen: list[Any] = self.parameters if len(groups) == 1 else groups
        return make(chosen, self.config.learning_rate)

    def learning_rate(self, step: int) -> float:
        """Learning rate of step `step`, from 0."""
        return self.attack.learning_rate(step, self.config)

    def save(self, folder: Path) -> Artifact:
        """Write the artifact of what is trained so far into the empty folder `folder`."""
        from apdm_cli.diffusion.clip_skip import note_clip_skip

        artifact = self.trainable.save(folder)
        note_clip_skip(folder, self.config.clip_skip)
        return artifact


class Bench(Protocol):
    """What an attack works with: everything of one cell.

    Attributes:
        base: the attacked model; never trained.
        subject: what the attacker has: photos (transformed already) and words.
        photos: latents of the photos. They stay in memory.
        streams: named randomness, of the cell's seed: both models get the same.
        artifact_folder: where `run` saves what it returns.
        results: what the attack wants in the manifest's summary.
        budgets: multiples of the attack's steps at which it is looked at, in ascending order.
        prompt_word: what stands for the subject in prompts. `train` says it, and so does an attack
            that trains elsewhere; if it is empty, the class noun stands alone.
        steps_taken: optimizer steps so far, which `train` counts.
    """

    base: DiffusionModel
    subject: Subject
    streams: Streams
    artifact_folder: Path
    results: dict[str, Any]
    budgets: tuple[float, ...]
    prompt_word: str
    steps_taken: int

    @property
    def model(self) -> DiffusionModel:
        """A private copy of `base`, frozen; the attack chooses what trains."""

    @property
    def photos(self) -> LatentDistribution: ...

    def attack(self, name: str) -> Attack:
        """The registered attack called `name`."""

    def personalization(
        self, attack: Attack, config: Any, subject: Subject | None = None
    ) -> Personalization:
        """Let `attack` prepare `model`, which it then trains on `subject` (else the bench's)."""

    def train(
        self,
        personalization: Personalization,
        *,
        label: str = "attack",
        photos: LatentDistribution | None = None,
        steps: int | None = None,
        stops: Mapping[int, float] | None = None,
    ) -> list[float]:
        """Train on the subject's photos, or `photos`; returns the loss of every step.

        Args:
            label: names the training in the loss curve, and its random streams.
            steps: optimizer steps; without it those up to the last of `stops`, or, without
                stops, those that are configured.
            stops: number of steps → the budget that is spent then. The attacked model is looked
                at there, as it would be if the training ended.
        """

    def stops(self, steps: int) -> dict[int, float]:
        """Where the budgets of an attack of `steps` steps are spent: step → budget, ascending."""

    def restart(self) -> DiffusionModel:
        """Throw `model` away and take a new private copy of the attacked model."""

    def new_folder(self, name: str) -> Path:
        """An empty folder `name` inside the cell, for artifacts beside the final one."""

    def load_original(self) -> DiffusionModel | None:
        """The model before any protection, for attackers who have it; or None."""

    def draw_class(self, model: DiffusionModel, config: Any) -> LatentDistribution:
        """Class pictures that `model` draws, encoded."""

    def similarity_of(self, personalization: Personalization, count: int) -> float | None:
        """Mean similarity of `count` pictures to the photos; None without an extractor."""

    def validation_loss(
        self, personalization: Personalization, photos: LatentDistribution
    ) -> float:
        """Denoising loss on `photos` without prior preservation; equal noise for every model."""
