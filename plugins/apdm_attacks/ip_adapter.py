"""IP-Adapter, arXiv 2308.06721: the photos are part of the prompt, and nothing is trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from apdm_attacks.image_prompt import KIND, open_prompted, read_files, save_prompt
from apdm_cli.digests import file_digest
from apdm_cli.plugin import Attack, AttackConfig, Trainable

if TYPE_CHECKING:
    from apdm_cli.diffusion.model import DiffusionModel
    from apdm_cli.plugin import Artifact, Bench
    from apdm_cli.subject import Subject


class IPAdapterConfig(AttackConfig):
    """An adapter as its authors publish it; of the options of training only `photo_count` counts.

    diffusers' default scale is 1.
    """

    steps: int = Field(0, ge=0, le=0, description="nothing is trained")
    weights: str = Field(
        "", description="folder with the adapter's .safetensors and its image_encoder/"
    )
    file: str = Field("", description="the adapter's file, where the folder has several")
    scale: float = Field(1.0, ge=0, le=10, description="weight of the photos beside the prompt")

    def description(self) -> dict[str, Any]:
        """The weights by what they are, wherever they lie. ApdmError where they are not."""
        files = read_files(Path(self.weights) if self.weights else None, self.file)
        named = {**super().description(), "weights": file_digest(files)}
        return {name: value for name, value in named.items() if name != "file"}


class IPAdapter(Attack):
    """Draws from the photos as they are, without any training, through an adapter of others.

    Stands for everybody who uploads a photo to a picture service. Whatever a protection does to
    the training of the base model does not matter to it.
    """

    name = "ip-adapter"
    Config = IPAdapterConfig
    kinds = (KIND,)

    def trainable(self, model: DiffusionModel, subject: Subject, config: Any) -> Trainable:
        """Nothing trains."""
        raise NotImplementedError(f"{self.name} trains nothing")

    def run(self, bench: Bench, config: Any) -> Artifact:
        """What the image encoder makes of the photos, and the adapter that reads it."""
        return save_prompt(bench, config)

    def load(self, model: DiffusionModel, folder: Path) -> DiffusionModel:
        """The model with the adapter, which draws every picture from the photos, too."""
        return open_prompted(model, folder)
