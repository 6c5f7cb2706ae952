"""How an evaluation samples, by what the model is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from apdm_cli.config import Settings
from apdm_cli.diffusion.sampling import SamplerName, SamplerSettings, fitting_batch
from apdm_cli.errors import ApdmError

if TYPE_CHECKING:
    from apdm_cli.diffusion.model import DiffusionModel

PUBLISHED = SamplerSettings(sampler="pndm", steps=20, guidance=7.5)  # arXiv 2511.01307
POCKET = SamplerSettings(sampler="ddim", steps=20, guidance=3.0)  # pocket/README.md
POCKET_CLASS_IMAGES = 128


class EvaluationSettings(Settings):
    """Everything that changes a score. What is None follows the model."""

    metrics: tuple[str, ...] = Field(("auto",), description="names; auto is all that can be used")
    prompts: str = Field("identity", description="prompt set, or a text file")
    images: int = Field(30, ge=1, description="pictures per attacked model")
    class_images: int | None = Field(None, ge=2, description="class pictures per model")
    sampler: SamplerName | None = Field(None, description="how pictures are drawn")
    steps: int | None = Field(None, ge=1, description="sampler steps")
    guidance: float | None = Field(None, ge=0, description="classifier-free guidance")
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
    """The published sampler, or that of the pocket model, with what was asked for."""
    chosen = sampler_for(settings, "pocket" if is_pocket(model) else "")
    return chosen.model_copy(update={"batch_size": batch_size_of(settings, model)})


def sampler_for(settings: EvaluationSettings, profile: str) -> SamplerSettings:
    """`sampler_of` for a model of the profile "pocket" or ""."""
    base = POCKET if profile == "pocket" else PUBLISHED
    asked = {
        name: value
        for name in ("sampler", "steps", "guidance")
        if (value := getattr(settings, name)) is not None
    }
    return base.model_copy(update=asked)


def batch_size_of(settings: EvaluationSettings, model: DiffusionModel) -> int:
    """Pictures at once, by their size and the device, unless it was asked for."""
    return settings.batch_size or fitting_batch(model)


def class_images_of(settings: EvaluationSettings, model: DiffusionModel) -> int:
    """Class pictures per model: 128 for the pocket model, else as many as attacks get."""
    default = POCKET_CLASS_IMAGES if is_pocket(model) else max(2, settings.images)
    return settings.class_images or default


def is_pocket(model: DiffusionModel) -> bool:
    """Whether `model` is the embedded one, by its name or by its weights."""
    from apdm_cli.diffusion.loading import POCKET as SOURCE
    from apdm_cli.diffusion.loading import folder_digest, pocket_folder

    if model.ref.source == SOURCE:
        return True
    try:
        return model.ref.digest == folder_digest(pocket_folder())
    except ApdmError:
        return False
