"""The trained part of a personalization, and the artifact that it leaves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.nn import Parameter

    from apdm_cli.diffusion.condition import Condition
    from apdm_cli.diffusion.model import DiffusionModel
    from apdm_cli.subject import Subject


@dataclass(frozen=True)
class Artifact:
    """What a personalization leaves, usable by plain diffusers without `apdm`.

    Attributes:
        kind: how it is opened again. First-party kinds are "pipeline" (a full or partial diffusers
            folder: whatever components are in it replace those of the attacked model), "lora"
            (`load_lora_weights`, and `load_textual_inversion` for what is in `tokens`), "peft"
            (`PeftModel.from_pretrained(unet, ...)`), "embedding"
            (`load_textual_inversion`) and "custom-diffusion" (`unet.load_attn_procs` and
            `load_textual_inversion`). `apdm attack --keep difference` makes a "difference" of a
            "pipeline", which only `apdm` opens.
        path: the folder.
    """

    kind: str
    path: Path


@dataclass
class Trainable(ABC):
    """The trained part of one model. A subclass says what trains and how that is saved.

    Subclasses may be dataclasses with fields of their own; one that overrides `__post_init__`
    calls this one's at its end, which switches on the gradients of `parameters()`.

    Attributes:
        model: the private copy that trains, frozen but for `parameters()`.
        subject: whom it learns.
        trains_text: whether conditions change during training: then `condition` is called at
            every step, otherwise once.
    """

    model: DiffusionModel
    subject: Subject
    trains_text = False

    def __post_init__(self) -> None:
        for parameter in self.parameters():
            parameter.requires_grad_(True)

    @abstractmethod
    def parameters(self) -> Sequence[Parameter]:
        """What the optimizer updates; every one requires grad."""

    @abstractmethod
    def save(self, folder: Path) -> Artifact:
        """Write the artifact into the empty folder `folder`; may be called more than once."""

    def begin_again(self) -> None:  # noqa: B027
        """Put what began as a copy or a function of the model's weights back to what it is now.

        For a protection, which simulates one training after another on weights that move in
        between: everything else in `parameters` is put back already. Nothing unless overridden.
        """

    def groups(self) -> list[dict[str, Any]]:
        """`parameters` as the optimizer's groups; in one of them "relative_rate" may say how many
        times the learning rate it trains with."""
        return [{"params": list(self.parameters())}]

    def condition(self, prompt: str) -> Condition:
        """What the model makes of `prompt`, a batch of one."""
        return self.model.embed([prompt])

    def prompt_word(self) -> str:
        """What stands for the subject in prompts: its identifier, unless a new token does."""
        return self.subject.identifier
