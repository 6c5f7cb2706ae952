"""How an evaluation samples, by what the model is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from apdm_cli.config import Settings
from apdm_cli.diffusion.family import check_sampler
from apdm_cli.pocket.profile import POCKET

if TYPE_CHECKING:
    from apdm_cli.diffusion.model import DiffusionModel
    from apdm_cli.diffusion.sampling import SamplerSettings

# Pixels in one batch: 64 pocket pictures, or one of 512² on a CPU and 16 on a graphics card.
PIXELS_CPU, PIXELS_CUDA = 2**18, 2**22


class EvaluationSettings(Settings):
    """Everything that changes a score. What is None follows the model."""

    metrics: tuple[str, ...] = Field(("auto",), description="names; auto is all that can be used")
    prompts: str = Field("identity", description="prompt set, or a text file")
    images: int = Field(30, ge=1, description="pictures per attacked model")
    class_images: int | None = Field(None, ge=2, description="class pictures per model")
    sampler: str | None = Field(None, description="how pictures are drawn")
    steps: int | None = Field(None, ge=1, description="sampler steps")
    guidance: float | None = Field(None, ge=0, le=1e3, description="classifier-free guidance")
    batch_size: int | None = Field(None, ge=1, description="pictures at once; changes nothing")
    captions: Path | None = Field(None, description="text file of general captions")
    neighbours: tuple[Path, ...] = Field((), description="photo folders of other subjects")
    neighbour_attack: dict[str, Any] = Field(
        {}, description="settings of the DreamBooth that teaches neighbours"
    )
    photos: tuple[Path, ...] = Field((), description="the subject's photos, if they moved")
    weights: dict[str, str] = Field({}, description="backend name → path")
    seed: int = Field(0, ge=0, description="of the pictures")


def sampler_of(settings: EvaluationSettings, model: DiffusionModel) -> SamplerSettings:
    """How the model's family (or the embedded model) is drawn with, with what was asked for.

    Raises:
        UsageError: a sampler that the family does not have.
    """
    from apdm_cli.diffusion.sampling import SamplerSettings

    usual = POCKET if is_pocket(model) else model.family.defaults
    return SamplerSettings(
        sampler=check_sampler(model.family, settings.sampler or usual.sampler),
        steps=settings.steps or usual.steps,
        guidance=usual.guidance if settings.guidance is None else settings.guidance,
        batch_size=batch_size_of(settings, model),
    )


def batch_size_of(settings: EvaluationSettings, model: DiffusionModel) -> int:
    """Pictures at once, by their size and the device, unless it was asked for."""
    budget = PIXELS_CUDA if model.device.type == "cuda" else PIXELS_CPU
    return settings.batch_size or max(1, min(64, budget // model.resolution**2))


def class_images_of(settings: EvaluationSettings, model: DiffusionModel) -> int:
    """Class pictures per model: the embedded model's own number, else as many as attacks get."""
    default = POCKET.class_images if is_pocket(model) else max(2, settings.images)
    return settings.class_images or default


def is_pocket(model: DiffusionModel) -> bool:
    """Whether the embedded model's settings and extractors fit `model`."""
    return model.profile == POCKET.name
