"""What several attacks share: a trained part that is a set of whole components."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from apdm_cli.errors import ApdmError
from apdm_cli.plugin import Artifact, Family, Trainable
from apdm_cli.pocket.profile import POCKET as PROFILE

if TYPE_CHECKING:
    from torch import nn

POCKET = PROFILE.attack


def require_text_encoder(family: Family, option: str, wanted: bool) -> None:
    """ApdmError where text encoders are to be trained and nobody trains those of the family."""
    if wanted and not family.text_encoders:
        raise ApdmError(
            f"{option}: the text encoder of {family.title} is a language model that stays as it is",
            "Train the network alone, with dreambooth or lora.",
        )


@dataclass
class Components(Trainable):
    """Whole components that train in full float32, saved as diffusers folders.

    Attributes:
        with_text: train the text encoders as well as the network that is personalized.
        trained: the parameters that train, if not all of these components.
    """

    with_text: bool = False
    trained: list[nn.Parameter] | None = None

    def __post_init__(self) -> None:
        require_text_encoder(self.model.family, "dreambooth-text", self.with_text)
        self.trains_text = self.with_text
        for name in self.names:
            self.part(name).float()
        super().__post_init__()

    @property
    def names(self) -> tuple[str, ...]:
        """Of the components, as the model's family calls them."""
        family = self.model.family
        return (family.trained, *(family.text_encoders if self.with_text else ()))

    def part(self, name: str) -> nn.Module:
        """The component called `name`."""
        module: nn.Module = self.model.component(name)
        return module

    def parameters(self) -> Sequence[nn.Parameter]:
        """All of the components', or those given."""
        if self.trained is not None:
            return self.trained
        return [weight for name in self.names for weight in self.part(name).parameters()]

    def save(self, folder: Path) -> Artifact:
        """One folder per component; they replace those of the attacked model."""
        for name in self.names:
            self.model.family.save_component(self.part(name), folder / name)
        return Artifact("pipeline", folder)
