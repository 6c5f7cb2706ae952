"""What several attacks share: a trained part that is a set of whole diffusers components."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from apdm_cli.extension.attack import Artifact, Trainable

# The weakest setting that clearly personalizes the pocket model. Twice the rate is a stronger
# attack: docs/pocket-search.md.
POCKET = {
    "steps": 50,
    "learning_rate": 1e-4,
    "batch_size": 4,
    "prior_weight": 0.3,
    "prior_pictures": 16,
    "sampler_steps": 20,
    "sampler_guidance": 3.0,
}


@dataclass
class Components(Trainable):
    """Whole components that train in full float32, saved as diffusers folders.

    Attributes:
        names: "unet", "text_encoder".
        trained: the parameters that train, if not all of these components.
    """

    names: tuple[str, ...] = ("unet",)
    trained: list[nn.Parameter] | None = None

    def __post_init__(self) -> None:
        self.trains_text = "text_encoder" in self.names
        for name in self.names:
            self.part(name).float()
        super().__post_init__()

    def part(self, name: str) -> nn.Module:
        """The component called `name`."""
        module: nn.Module = getattr(self.model.pipeline, name)
        return module

    def parameters(self) -> Sequence[nn.Parameter]:
        """All of the components', or those given."""
        if self.trained is not None:
            return self.trained
        return [weight for name in self.names for weight in self.part(name).parameters()]

    def save(self, folder: Path) -> Artifact:
        """One diffusers folder per component; they replace those of the attacked model."""
        for name in self.names:
            self.part(name).save_pretrained(folder / name)  # type: ignore[operator]
        return Artifact("pipeline", folder)
