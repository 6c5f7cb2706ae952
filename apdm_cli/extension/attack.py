"""What an attack is: which parameters train, and how they are saved. The harness does the rest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from apdm_cli.personalization.settings import AttackConfig
from apdm_cli.personalization.trainable import Artifact, Trainable

if TYPE_CHECKING:
    from torch import Tensor

    from apdm_cli.diffusion.latents import LatentDistribution
    from apdm_cli.diffusion.model import DiffusionModel
    from apdm_cli.harness.workbench import Workbench
    from apdm_cli.randomness import Streams
    from apdm_cli.subject import Subject

__all__ = ["Artifact", "Attack", "AttackConfig", "Trainable"]


class Attack(ABC):
    """One way to personalize a model to a subject.

    Attributes:
        name: as typed after --plugin; lower case, words joined by hyphens.
        Config: a pydantic model whose every field has a default and a description.
        profiles: other defaults per kind of model; "pocket" is used for the embedded model.
    """

    name: ClassVar[str]
    Config: ClassVar[type[AttackConfig]] = AttackConfig
    profiles: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @abstractmethod
    def trainable(self, model: DiffusionModel, subject: Subject, config: Any) -> Trainable:
        """Prepare `model`, which belongs to this attack alone, and say what trains."""

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
        """Learning rate of step `step`, from 0; constant unless overridden."""
        return config.learning_rate

    def run(self, bench: Workbench, config: Any) -> Artifact:
        """The whole attack: one personalization, unless overridden with several."""
        trainable = self.trainable(bench.model, bench.subject, config)
        bench.personalize(trainable, config, lambda step: self.learning_rate(step, config))
        return trainable.save(bench.artifact_folder)

    @property
    def summary(self) -> str:
        """One line of what it does: the first line of the class's docstring."""
        return (type(self).__doc__ or "").strip().partition("\n")[0]
