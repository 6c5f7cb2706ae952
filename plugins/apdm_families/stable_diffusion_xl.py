"""Stable Diffusion XL, arXiv 2307.01952: two text encoders, and a U-Net that is told sizes.

What it shares with Stable Diffusion (the noise process, the autoencoder, the loaders of adapters)
is that family's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from apdm_cli.diffusion.family import Components, Family, FamilyDefaults
from apdm_cli.errors import ApdmError
from apdm_cli.runs.manifest import read_json
from apdm_families.checks import check_added_conditions
from apdm_families.stable_diffusion import SAMPLERS, StableDiffusion

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from apdm_cli.diffusion.condition import Condition

# A setting of the pipeline, not a part of it: whether the empty prompt of the guidance is zeros.
ZEROS = "force_zeros_for_empty_prompt"
# How the tensors of both text encoders begin in a single file.
FILE_MARK = "conditioner.embedders."
OTHER_PIPELINES = {
    "StableDiffusionXLInpaintPipeline": "an inpainting model of Stable Diffusion XL (its U-Net "
    "also takes a mask and a masked picture)",
    "StableDiffusionXLInstructPix2PixPipeline": "a model that edits pictures (its U-Net also takes "
    "a picture)",
}
REFINER = "the refiner of Stable Diffusion XL (it has no first text encoder)"
BASE_HINT = "Take the text-to-image model that it belongs to, such as stable-diffusion-xl-base-1.0."


class StableDiffusionXL(StableDiffusion):
    """Stable Diffusion XL from a diffusers folder, a single file or a hub id."""

    name = "sdxl"
    title = "Stable Diffusion XL (StableDiffusionXLPipeline)"
    pipeline_class = "StableDiffusionXLPipeline"
    pipeline_options: ClassVar = {"add_watermarker": False}
    text_encoders = ("text_encoder", "text_encoder_2")
    tokenizers = ("tokenizer", "tokenizer_2")
    # As in the files that are shared for it, and in diffusers' guide to textual inversion.
    word_keys: ClassVar = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
    schedulers: ClassVar = {**SAMPLERS, "euler": "EulerDiscreteScheduler"}
    samplers = tuple(schedulers)
    # The guidance is the pipeline's own; its scheduler is Euler's in the published folder.
    defaults = FamilyDefaults(sampler="euler", steps=30, guidance=5.0, class_sampler="euler")
    exact = ("sizes", "time_ids")

    # Opening

    def opens(self, index: Mapping[str, Any]) -> bool:
        """Every pipeline of Stable Diffusion XL; `open` says which of them are not supported."""
        return str(index["_class_name"]).startswith("StableDiffusionXL")

    def open(self, folder: Path) -> Components:
        """Part by part, so that an error names the part."""
        from apdm_families.diffusers_folder import STABLE_DIFFUSION_XL, load_folder

        _require_text_to_image(folder)
        check_added_conditions(folder)
        return _components(load_folder(folder, STABLE_DIFFUSION_XL))

    def opens_file(self, tensors: Collection[str]) -> bool:
        """A whole checkpoint in the original layout."""
        return any(name.startswith(FILE_MARK) for name in tensors)

    def open_file(self, file: Path) -> Components:
        """With the configuration beside it, otherwise that of the published base model."""
        from apdm_families.single_file import ORIGINAL_STABLE_DIFFUSION_XL, load_single_file

        check_added_conditions(file.with_suffix(""))
        return _components(load_single_file(file, ORIGINAL_STABLE_DIFFUSION_XL))

    def place(self, components: Components, device: torch.device, dtype: torch.dtype) -> None:
        """The autoencoder in float32 where it asks for it, and one picture at a time.

        The published autoencoder overflows in half precision; diffusers widens it as well, where
        its configuration has `force_upcast`. With 1024 pixels a side, a batch of pictures in the
        autoencoder would need more memory than training the U-Net.
        """
        import torch

        vae = components["vae"]
        others = {name: part for name, part in components.items() if part is not vae}
        super().place(others, device, dtype)
        wide = dtype == torch.float16 and vae.config.force_upcast
        super().place({"vae": vae}, device, torch.float32 if wide else dtype)
        vae.enable_slicing()

    # Training

    def embed(
        self, components: Components, prompts: Sequence[str], device: torch.device
    ) -> Condition:
        """`Condition({"text": (B, L, D), "pooled": (B, P), "sizes": (B, 6)})`.

        "text" is both encoders' penultimate hidden states side by side, "pooled" the second one's
        pooled embedding, "sizes" the heights and widths before and after cropping with the crop's
        corner between them, in pixels: those of a whole picture of the model's resolution, as the
        pipeline draws it.
        """
        import torch

        from apdm_cli.diffusion.condition import Condition

        text, _, pooled, _ = self.pipeline(components).encode_prompt(
            list(prompts),
            device=device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        side = self.resolution(components)
        sizes = torch.tensor([[side, side, 0, 0, side, side]], device=device, dtype=torch.float32)
        return Condition(
            {
                "text": text.float(),
                "pooled": pooled.float(),
                "sizes": sizes.repeat(len(text), 1),
            }
        )

    def told_sizes(self, condition: Condition, sizes: Tensor) -> Condition:
        """With the photo's size, the crop's corner and the size after it (section 2.2)."""
        from apdm_cli.devices import sent
        from apdm_cli.diffusion.condition import Condition

        told = sent(sizes, condition["sizes"].device).to(condition["sizes"].dtype)
        return Condition({**condition.tensors, "sizes": told})

    def skip_text_layers(self, components: Components, count: int) -> None:
        """Refused: it is the last layer but one that is read of both encoders already."""
        Family.skip_text_layers(self, components, count)

    def predict(
        self, network: nn.Module, noisy: Tensor, timesteps: Tensor, condition: Condition
    ) -> Tensor:
        """The U-Net's answer."""
        answer: Tensor = network(
            noisy,
            timesteps,
            encoder_hidden_states=condition["text"],
            added_cond_kwargs={"text_embeds": condition["pooled"], "time_ids": condition["sizes"]},
        ).sample
        return answer


def _components(pipeline: Any) -> Components:
    return {**pipeline.components, ZEROS: bool(pipeline.config[ZEROS])}


def _require_text_to_image(folder: Path) -> None:
    """Refuse the other pipelines of Stable Diffusion XL."""
    index = read_json(folder / "model_index.json", foreign=True)
    kind, first = str(index["_class_name"]), index.get("text_encoder")
    if isinstance(first, list) and first[:1] == [None]:
        raise ApdmError(f"{folder} holds {REFINER}: not supported", BASE_HINT)
    if kind != "StableDiffusionXLPipeline":
        what = OTHER_PIPELINES.get(kind, f"a {kind}, which draws from more than a prompt")
        raise ApdmError(f"{folder} holds {what}: not supported", BASE_HINT)
