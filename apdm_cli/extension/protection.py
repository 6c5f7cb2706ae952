"""What a protection is: how the weights of a model are moved. The house does the rest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from apdm_cli.errors import UsageError
from apdm_cli.extension.protection_config import LowRank, ProtectionConfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch.nn import Module, Parameter

    from apdm_cli.diffusion.condition import Condition
    from apdm_cli.diffusion.denoiser import Denoiser
    from apdm_cli.diffusion.displacements import Displacement
    from apdm_cli.diffusion.latents import LatentDistribution
    from apdm_cli.diffusion.low_rank import LowRankDifference
    from apdm_cli.diffusion.model import DiffusionModel
    from apdm_cli.diffusion.perturbation import Perturbation
    from apdm_cli.extension.attack import Attack, AttackConfig
    from apdm_cli.personalization.dreambooth import PictureSource
    from apdm_cli.personalization.optimizers import MakeOptimizer
    from apdm_cli.personalization.simulated import SimulatedAttacker
    from apdm_cli.randomness import Streams
    from apdm_cli.runs.checkpoints import Stateful
    from apdm_cli.runs.ranks import Ranks
    from apdm_cli.subject import Subject


def check_attackers(adapter: LowRank | None, kinds: Iterable[Kind]) -> None:
    """UsageError where one of `kinds` would train weights that are held in 8 bits."""
    for kind in kinds if adapter is not None and adapter.base == "int8" else ():
        if not kind.attack.leaves_network:
            raise UsageError(
                f"adapter.base = int8: the simulated attacker {kind.attack.name} trains the "
                "network's own weights, which 8 bits cannot hold",
                "Simulate attackers that train adapters (--set path.attack=lora), or leave "
                "adapter.base out.",
            )


def without_displacement(kinds: Iterable[Kind]) -> list[str]:
    """Names of the attacks among `kinds` of which `--keep-attackers` can keep nothing."""
    return list(
        dict.fromkeys(kind.attack.name for kind in kinds if not kind.attack.leaves_displacement)
    )


@dataclass(frozen=True)
class Inputs:
    """What a protection needs drawn by the original model φ before it begins.

    Attributes:
        class_pictures: pictures of the class; the house draws at least one a photo.
        captions: φ draws a picture of each, kept as latents.
        others: for every other subject, the captions that φ draws its pictures of.
        folders: folders of photos of other subjects, after those of `others`.
    """

    class_pictures: int = 0
    captions: tuple[str, ...] = ()
    others: tuple[tuple[str, ...], ...] = ()
    folders: tuple[str, ...] = ()

    @property
    def drawn(self) -> int:
        """Number of pictures of `captions` and `others`."""
        return len(self.captions) + sum(map(len, self.others))


@dataclass(frozen=True)
class Kind:
    """What one simulated attacker is.

    Attributes:
        attack, config: the attack and its whole configuration.
        identifier: the word it uses; empty is the subject's.
        photos: how many photos it has; 0 is all.
        weight: how often it is drawn, relative to others.
    """

    attack: Attack
    config: AttackConfig
    identifier: str = ""
    photos: int = 0
    weight: float = 1.0


class ProtectionBench(Protocol):
    """What a protection works with.

    Attributes:
        model: its trained network is θ, which the protection moves in place.
        difference: what moves on top of the network where its own weights do not; None otherwise.
        subject: whom the model is to refuse, in the words that training uses.
        photos: latents of the photos, x⁻. They stay in memory.
        class_pictures: latents of what φ drew of the class, x⁺.
        captioned: latents of what φ drew of `Inputs.captions`, one each.
        others: latents of every other subject.
        inputs: what was asked for.
        streams: named randomness of the run.
        low_memory: recompute activations and run one forward at a time.
        ranks: which of several processes this one is. Between a gradient of θ and the step that
            takes it, `ranks.average(bench.weights)` makes it the mean over all of them.
        attacks: every registered attack by its name.
        displacements: of a subject in `earlier`, where its attackers once were; none unless the
            protection `wants_displacements`.

    A run may protect several subjects. What is said here of `subject`, `photos`, `class_pictures`,
    `captioned`, `others`, `inputs`, `personal`, `generic` and `attacker` is then of the first one,
    and `each` has a bench for every one of them.
    """

    model: DiffusionModel
    difference: LowRankDifference | None
    subject: Subject
    photos: LatentDistribution
    class_pictures: LatentDistribution
    captioned: LatentDistribution
    others: tuple[LatentDistribution, ...]
    inputs: Inputs
    streams: Streams
    low_memory: bool
    ranks: Ranks
    attacks: Mapping[str, Attack]
    displacements: Sequence[Displacement]

    @property
    def each(self) -> Sequence[ProtectionBench]:
        """A bench for every subject, this one first, on the same θ, φ, streams and state.

        Subjects of one class share class pictures, captions and others. `keep` and `begin` are
        for the whole run: they are asked here.
        """
        ...

    @property
    def earlier(self) -> Sequence[ProtectionBench]:
        """A bench for everybody whom θ protects from the beginning and should go on protecting.

        There are their words and what φ, which is θ at the beginning, drew for their classes;
        photos there are none.
        """
        ...

    @property
    def perturbation(self) -> Perturbation:
        """The photos and what is added to them, of an `ImageProtection`; checkpoints hold it."""
        ...

    @property
    def weights(self) -> list[Parameter]:
        """What moves: all weights of θ's network, or those of the difference.

        The latter where `train` of an `AdaptableConfig` is "adapter".
        """
        ...

    @property
    def reference(self) -> Denoiser:
        """φ: a frozen copy of θ, made when it is first asked for. Ask before the first step.

        Where a difference moves it is the same network without it.
        """
        ...

    @property
    def original(self) -> Module:
        """θ's network before any step, exactly, perhaps on another device. Ask like `reference`,
        whose weights may be rounded to the precision that it computes in."""
        ...

    @property
    def personal(self) -> Condition:
        """c_per, a batch of one."""
        ...

    @property
    def generic(self) -> Condition:
        """c_pr, a batch of one."""
        ...

    def embed(self, captions: Sequence[str]) -> Condition:
        """One row a caption; captions that repeat are encoded once."""
        ...

    def source(
        self,
        pictures: LatentDistribution,
        name: str,
        limits: tuple[float, float] = (0.0, 1.0),
    ) -> PictureSource:
        """Endless noised draws from `pictures`, from streams of that `name`."""
        ...

    def optimizer(
        self, kind: str, betas: tuple[float, float], weight_decay: float
    ) -> MakeOptimizer:
        """A function (parameters, learning rate) → optimizer."""
        ...

    def attacker(
        self,
        kind: Kind,
        photos: LatentDistribution,
        label: str,
        rate: float = 1.0,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        one_forward: bool = True,
    ) -> SimulatedAttacker:
        """An attacker on θ as it is now, made by the code that makes the attack itself.

        Args:
            photos: latents of whom it learns.
            label: of its random streams.
            rate: multiple of its learning rate.
            betas: of its AdamW.
            one_forward: whether its loss runs photos and class pictures as one batch.
        """
        ...

    def twin(self) -> Denoiser:
        """θ's denoiser on a network of its own, frozen, for other weights near θ."""
        ...

    def leave(self, attackers: Sequence[tuple[SimulatedAttacker, int]]) -> None:
        """Say who was alive at the end, and how many attack steps are left of each life.

        Where displacements are to be kept, they take those steps on θ as it then is.
        """
        ...

    def keep(self, name: str, what: Stateful) -> None:
        """Let checkpoints hold `what`; before `begin`. Weights and streams are held anyway."""
        ...

    def begin(self, total: int) -> int:
        """Say that there are `total` steps; returns how many an earlier process took.

        Everything that is kept is then where it was after those.
        """
        ...

    def optimizer_copies(self, trained: float, kind: str = "adamw") -> float:
        """Copies of θ's size for weights that are `trained` times θ: themselves, their gradient
        and the moments that the machine's memory holds."""
        ...

    def trained_copies(self, kind: str = "adamw") -> float:
        """`optimizer_copies` of `weights`, and the frozen network below a difference."""
        ...

    @property
    def theta_waits(self) -> bool:
        """Whether θ is not on the device while an attacker that trains all of it has its turn."""
        ...

    @property
    def reference_copies(self) -> float:
        """Copies of θ's size that φ takes in memory."""
        ...

    def trained_share(self, kind: Kind) -> float:
        """Number of weights that an attacker trains, over those of θ."""
        ...


class Protection(ABC):
    """One way to make a model refuse to learn a subject.

    Attributes:
        name: as typed after --method; lower case, words joined by hyphens.
        Config: a `ProtectionConfig` whose every field has a default and a description.
        labels: name of a term → what the progress line calls it; terms without one are in the log
            only. Without labels the line has them all.
        several: whether it protects several subjects at once: then its steps look at all of
            `ProtectionBench.each`.
        ranks: whether several processes may make it together: then its steps average the gradient.
        recordable: whether its steps take gradients of recorded passes, where there are any; not
            where all of them go through `Denoiser.launched`.
        in_float32: whether the largest of its `losses` is computed in float32, whatever --dtype is.
    """

    name: ClassVar[str]
    several: ClassVar[bool] = False
    ranks: ClassVar[bool] = False
    recordable: ClassVar[bool] = True
    in_float32: ClassVar[bool] = False
    Config: ClassVar[type[ProtectionConfig]] = ProtectionConfig
    labels: ClassVar[Mapping[str, str]] = {}

    def titles(self, config: Any) -> Mapping[str, str]:
        """The terms that a report draws over the steps: name → what it shows.

        Unless overridden the report draws all of them, by name.
        """
        return {}

    @property
    def presets(self) -> Sequence[str]:
        """Names of the presets, the one for full-size models first."""
        return ("default",)

    def preset(self, name: str) -> dict[str, Any]:
        """The settings of a preset, as a nested dict; UsageError names the known ones."""
        if name not in self.presets:
            known = ", ".join(self.presets)
            raise UsageError(f"There is no preset {name!r}", f"Known are: {known}.")
        return {}

    def preset_for(self, profile: str) -> str:
        """The preset for a model of `profile`: "pocket" for the embedded model, else ""."""
        return profile if profile in self.presets else self.presets[0]

    def check(  # noqa: B027  most have nothing to check
        self, config: Any, attacks: Mapping[str, Attack]
    ) -> None:
        """Raise UsageError where `config` cannot be meant, before anything is loaded."""

    def inputs(self, subject: Subject, config: Any) -> Inputs:
        """What φ has to draw; asked once, before the run begins.

        Captions that come from a file belong here: a resumed run must find the same.
        """
        return Inputs(class_pictures=config.prior_pictures)

    def living_on(self, config: Any, attacks: Mapping[str, Attack]) -> Sequence[Kind]:
        """What the attackers may be that `steps` leaves alive at its end (`ProtectionBench.leave`);
        nothing where it leaves none.

        Args:
            attacks: every attack by its name.
        """
        return ()

    def wants_displacements(self, config: Any) -> bool:
        """Whether `steps` looks at `ProtectionBench.displacements` of the earlier subjects."""
        return False

    @abstractmethod
    def steps(self, bench: ProtectionBench, config: Any) -> Iterator[Mapping[str, float]]:
        """Move the weights of `bench.model` in place, yielding what every step measured, by name.

        What changes from step to step goes to `bench.keep`; then `bench.begin(total)` says how
        many steps there are and returns how many of them an earlier process has taken. When the
        iterator is exhausted the weights are the result.
        """

    def shortened(self, config: Any) -> tuple[Any, float]:
        """A configuration with quicker steps to measure, and how many of them make one step."""
        return config, 1.0

    def memory_copies(self, bench: ProtectionBench, config: Any) -> float:
        """Copies of the trained network in float32 that are in memory at once, activations aside.

        Unless overridden: θ, its gradient, the two moments of AdamW, and φ.
        """
        return bench.trained_copies() + bench.reference_copies

    def losses(self, config: Any) -> Mapping[str, Sequence[int]]:
        """How many samples each loss has whose gradient is taken, by the network it goes through.

        Their activations are held until the backward pass. Unless overridden: `batch_size` photos
        and as many class pictures through θ.
        """
        return {"θ": (2 * int(getattr(config, "batch_size", 1)),)}

    def result(self, summary: Mapping[str, Any], config: Any) -> str:
        """What to say when a run is done, from the means of the last tenth of its terms."""
        terms = [
            f"{name} {value:.3g}" for name, value in summary.items() if isinstance(value, float)
        ]
        return ", ".join(terms)

    @property
    def summary(self) -> str:
        """One line of what it does: the first line of the class's docstring."""
        return (type(self).__doc__ or "").strip().partition("\n")[0]
