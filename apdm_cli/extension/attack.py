"""What an attack is: which parameters train, and how they are saved. The harness does the rest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from pydantic import Field

from apdm_cli.config import Settings

if TYPE_CHECKING:
    from torch.nn import Parameter

    from apdm_cli.diffusion.condition import Condition
    from apdm_cli.diffusion.model import DiffusionModel
    from apdm_cli.harness.workbench import Workbench
    from apdm_cli.subject import Subject

ArtifactKind = Literal["pipeline", "lora", "peft", "embedding", "custom-diffusion"]


@dataclass(frozen=True)
class Artifact:
    """What an attack leaves, usable by plain diffusers without `apdm`.

    Attributes:
        kind: "pipeline" (a full or partial diffusers folder: whatever components are in it replace
            those of the attacked model), "lora" (`load_lora_weights`), "peft"
            (`PeftModel.from_pretrained(unet, ...)`), "embedding" (`load_textual_inversion`),
            "custom-diffusion" (`unet.load_attn_procs` and `load_textual_inversion`).
        path: the folder.
    """

    kind: ArtifactKind
    path: Path


class AttackConfig(Settings):
    """Options that every personalization has. Defaults: METHOD's protocol for Stable Diffusion."""

    steps: int = Field(800, ge=1, description="optimizer steps")
    learning_rate: float = Field(5e-6, gt=0, description="of the optimizer")
    batch_size: int = Field(1, ge=1, description="photos a step (and as many class pictures)")
    accumulation: int = Field(1, ge=1, description="batches averaged per step")
    prior_weight: float = Field(1.0, ge=0, description="weight of prior preservation; 0 is off")
    prior_pictures: int = Field(200, ge=1, description="class pictures, made by the attacked model")
    sampler_steps: int = Field(50, ge=1, description="DDIM steps for the class pictures")
    sampler_guidance: float = Field(7.5, ge=0, description="guidance for the class pictures")
    optimizer: Literal["adamw", "adamw8bit", "sgd", "adafactor", "lion"] = Field(
        "adamw", description="adamw8bit needs bitsandbytes"
    )
    weight_decay: float = Field(1e-2, ge=0, description="of the optimizer")
    max_grad_norm: float = Field(1.0, ge=0, description="clip the gradient; 0 does not")
    min_snr_gamma: float = Field(0.0, ge=0, description="min-SNR weighting; 0 is off")
    ema: float = Field(0.0, ge=0, lt=1, description="decay of averaged weights; 0 is off")
    timestep_range: tuple[float, float] = Field(
        (0.0, 1.0), description="part of the noise schedule to train on"
    )


class Trainable(Protocol):
    """The trained part of an attack on one model."""

    def parameters(self) -> Sequence[Parameter]:
        """What the optimizer updates; every one requires grad."""
        ...

    def condition(self, prompt: str) -> Condition:
        """What a prompt becomes, a batch of one; called at every step if `trains_text` is true."""
        ...

    @property
    def trains_text(self) -> bool:
        """Whether `condition` changes during training."""
        ...

    def prompt_word(self) -> str:
        """What stands for the subject in prompts: the identifier, or a new token."""
        ...

    def save(self, folder: Path) -> Artifact:
        """Write the artifact into the empty folder `folder`."""
        ...


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
