"""What a protection of photos is: how they are perturbed. The model stays what it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, model_validator

from apdm_cli.extension.protection import Inputs, Protection
from apdm_cli.extension.protection_config import ProtectionConfig

if TYPE_CHECKING:
    from apdm_cli.subject import Subject


class ImageProtectionConfig(ProtectionConfig):
    """Options of every protection that returns photos."""

    eta: float = Field(
        0.05,
        ge=2 / 255,
        le=2,
        description="η: how much of [-1, 1] every value of a photo may change (L∞ norm)",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.preview_every:
            raise ValueError("preview_every is for protections of models: here photos change")
        return self


class ImageProtection(Protection):
    """One way to change photos so that a model does not learn their subject from them.

    Its steps move `bench.perturbation` within the bound η, which the house keeps: the pixels of the
    photos at the model's resolution, and what was added to them. `bench.model` is its own copy,
    for surrogates: checkpoints hold the weights of its trained network, and the run does not. When
    the iterator is exhausted the perturbed photos are the result. Whoever attacks such a run has
    them in the place of the photos, and the original model.
    """

    Config: ClassVar[type[ImageProtectionConfig]] = ImageProtectionConfig

    def inputs(self, subject: Subject, config: Any) -> Inputs:
        """Nothing, unless overridden: a surrogate may want class pictures."""
        return Inputs()

    def encoded(self, config: Any) -> int:
        """How many photos a gradient reaches through the autoencoder at once, for `--dry-run`."""
        return int(getattr(config, "ascent_batch", 1))

    def result(self, summary: Mapping[str, Any], config: Any) -> str:
        """The bound, and the means of the last tenth of the terms."""
        terms = super().result(summary, config)
        return f"no value changed by more than {config.eta:g} of [-1, 1]; {terms}"


def bound(config: ProtectionConfig) -> float | None:
    """η where `config` is of a protection of photos; None where the model is protected."""
    return config.eta if isinstance(config, ImageProtectionConfig) else None
