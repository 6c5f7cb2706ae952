"""What every family has whose models are pipelines of diffusers.

diffusers and transformers take seconds to import, so every method imports what it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from apdm_cli.diffusion.family import Components, Drawing, Family

if TYPE_CHECKING:
    import torch

LORA_FILE = "pytorch_lora_weights.safetensors"


class DiffusersFamily(Family):
    """Opens, saves and adapts components as diffusers does, without its bars and warnings.

    Attributes:
        pipeline_class: of diffusers, by name.
        pipeline_options: what the pipeline is given beside the components.
    """

    pipeline_class: ClassVar[str]
    pipeline_options: ClassVar[dict[str, Any]] = {}

    def pipeline(self, components: Components) -> Any:
        """diffusers' pipeline that shares the components."""
        import diffusers

        pipeline = getattr(diffusers, self.pipeline_class)(**components, **self.pipeline_options)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    # Opening and saving

    def reopen(self, component: Any, folder: Path) -> Any:
        """Like `open`, for one component."""
        from torch import nn

        from apdm_families.diffusers_folder import load_part

        if isinstance(component, nn.Module):
            return load_part(folder, type(component))
        return super().reopen(component, folder)

    def place(self, components: Components, device: torch.device, dtype: torch.dtype) -> None:
        """Without the warnings of diffusers."""
        from apdm_families.diffusers_folder import QuietLibraries

        with QuietLibraries():
            super().place(components, device, dtype)

    def save_component(self, component: Any, folder: Path) -> None:
        """Without the bars of the libraries."""
        from apdm_families.diffusers_folder import QuietLibraries

        with QuietLibraries():
            super().save_component(component, folder)

    def save_all(self, components: Components, folder: Path) -> None:
        """Without the bars of the libraries."""
        from apdm_families.diffusers_folder import QuietLibraries

        with QuietLibraries():
            super().save_all(components, folder)

    # Pictures

    def draw(self, pipeline: Any, drawing: Drawing, side: int, **what: Any) -> Any:
        """Latents as `pipeline` draws them.

        Args:
            side: of the pictures, in pixels.
            what: prompts or conditions, and whatever is other than `drawing` says.
        """
        how = {
            "height": side,
            "width": side,
            "num_inference_steps": drawing.steps,
            "guidance_scale": drawing.guidance,
            "latents": drawing.noise,
            "output_type": "latent",
        }
        return pipeline(**(how | what)).images

    # Adapters

    def save_lora(
        self, components: Components, names: Sequence[str], folder: Path, layout: str
    ) -> None:
        """What `load_lora_weights` opens, alpha included; "kohya" is what other tools read too.

        Adapters of a text encoder are a folder of its name, which peft opens; in kohya's layout
        they are in the same file.
        """
        from apdm_families.lora_files import save_diffusers, save_kohya, save_text_adapter

        parts = {name: components[name] for name in names}
        if layout == "kohya":
            save_kohya(parts, folder / LORA_FILE)
            return
        for name in self.text_encoders:
            if name in parts:
                save_text_adapter(parts.pop(name), folder / name)
        save_diffusers(type(self.pipeline(components)), parts, folder / LORA_FILE)

    def load_lora(self, components: Components, folder: Path) -> None:
        """With diffusers' own loader, which otherwise says of which parts there is nothing."""
        from apdm_families.diffusers_folder import QuietLibraries
        from apdm_families.lora_files import holds_kohya_text, open_kohya, open_text_adapter

        encoders = {name: components[name] for name in self.text_encoders}
        file = folder / LORA_FILE
        with QuietLibraries():
            if file.is_file() and holds_kohya_text(file):
                open_kohya(self.pipeline(components), encoders, file)
                return
            self.pipeline(components).load_lora_weights(folder)
        for name, encoder in encoders.items():
            if (folder / name).is_dir():
                open_text_adapter(encoder, folder / name)

    def load_ip_adapter(self, components: Components, file: Path, encoder: str | None) -> Any:
        """The pipeline around `components`, whose network gets an IP-Adapter, in place.

        Args:
            encoder: folder of the image encoder beside `file`; None leaves it out.
        """
        from apdm_families.diffusers_folder import QuietLibraries

        pipeline = self.pipeline(components)
        with QuietLibraries():
            pipeline.load_ip_adapter(
                str(file.parent),
                subfolder="",
                weight_name=file.name,
                image_encoder_folder=encoder,
                local_files_only=True,
            )
        return pipeline

    def save_memory(self, components: Components) -> None:
        """Also one picture at a time in the autoencoder."""
        super().save_memory(components)
        components["vae"].enable_slicing()
