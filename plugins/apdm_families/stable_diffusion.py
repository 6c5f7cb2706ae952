"""Stable Diffusion 1.x and 2.x: a U-Net on an autoencoder's latents, one CLIP text encoder.

diffusers and transformers take seconds to import, so every method imports what it needs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from apdm_cli.diffusion.family import AdapterTargets, Components, Drawing, FamilyDefaults
from apdm_cli.errors import ApdmError, UsageError
from apdm_families.diffusers_family import DiffusersFamily

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from apdm_cli.diffusion.condition import Condition
    from apdm_cli.diffusion.latents import LatentDistribution
    from apdm_cli.diffusion.process import Diffusion

SAMPLERS = {
    "ddim": "DDIMScheduler",
    "pndm": "PNDMScheduler",
    "dpmsolver++": "DPMSolverMultistepScheduler",
}
# Every Stable Diffusion checkpoint skips PNDM's Runge-Kutta steps, but one whose own scheduler is
# another (as a folder's may be) does not say so.
SAMPLER_DEFAULTS = {"pndm": {"skip_prk_steps": True}}
# Latents are not bounded by 1 as pixels are: clipping them washes pictures out. DDIM and DDPM clip
# unless a configuration says otherwise, and those of Euler and DPM++ folders do not.
NEVER_CLIPPED = {"clip_sample": False, "thresholding": False}
# Tensors of CLIP's text encoder (1.x) and of OpenCLIP's (2.x) in the original layout.
FILE_MARKS = ("cond_stage_model.transformer.", "cond_stage_model.model.")


class StableDiffusion(DiffusersFamily):
    """Stable Diffusion 1.x and 2.x from a diffusers folder, a single file or a hub id.

    Attributes:
        schedulers: sampler → its class in diffusers.
    """

    name = "stable-diffusion"
    title = "Stable Diffusion 1.x and 2.x (StableDiffusionPipeline)"
    pipeline_class = "StableDiffusionPipeline"
    pipeline_options: ClassVar = {"requires_safety_checker": False}
    trained = "unet"
    schedulers: ClassVar[Mapping[str, str]] = SAMPLERS
    samplers = tuple(SAMPLERS)
    # The published protocol of arXiv 2511.01307.
    defaults = FamilyDefaults(sampler="pndm", steps=20, guidance=7.5, class_sampler="ddim")
    adapter_targets = AdapterTargets(
        attention=("to_q", "to_k", "to_v", "to_out.0"),
        convolutions=("conv1", "conv2", "conv_shortcut"),
        feed_forward=("ff.net.0.proj", "ff.net.2"),
        projections=("proj_in", "proj_out"),
        time_embedding=("time_embedding.linear_1", "time_embedding.linear_2", "time_emb_proj"),
        text_feed_forward=("fc1", "fc2"),
    )

    lora_layouts = ("diffusers", "kohya")

    # Opening and saving

    def opens(self, index: Mapping[str, Any]) -> bool:
        """A StableDiffusionPipeline."""
        return index["_class_name"] == "StableDiffusionPipeline"

    def open(self, folder: Path) -> Components:
        """Part by part, so that an error names the part."""
        from apdm_families.diffusers_folder import STABLE_DIFFUSION, load_folder

        return dict(load_folder(folder, STABLE_DIFFUSION).components)

    def opens_file(self, tensors: Collection[str]) -> bool:
        """A whole checkpoint in the original layout."""
        return any(mark in name for name in tensors for mark in FILE_MARKS)

    def open_file(self, file: Path) -> Components:
        """With the configuration beside it, otherwise Stable Diffusion 1.5's."""
        from apdm_families.single_file import ORIGINAL_STABLE_DIFFUSION, load_single_file

        return dict(load_single_file(file, ORIGINAL_STABLE_DIFFUSION).components)

    # Training

    def process(self, components: Components) -> Diffusion:
        """The training schedule that the scheduler's configuration describes."""
        from diffusers import DDPMScheduler

        from apdm_cli.diffusion.process import Diffusion

        schedule = DDPMScheduler.from_config(components["scheduler"].config, **NEVER_CLIPPED)
        alphas = schedule.alphas_cumprod.to(components["unet"].device)
        return Diffusion(alphas, schedule.config.prediction_type)

    def embed(
        self, components: Components, prompts: Sequence[str], device: torch.device
    ) -> Condition:
        """`Condition({"text": (B, L, D)})`.

        Goes through the pipeline's own encoder so that textual-inversion tokens expand exactly as
        they do for a user of plain diffusers.
        """
        from apdm_cli.diffusion.condition import Condition

        text, _ = self.pipeline(components).encode_prompt(
            list(prompts),
            device=device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        return Condition({"text": text.float()})

    def skip_text_layers(self, components: Components, count: int) -> None:
        """They pass on what they are given, so that the final norm reads an earlier layer."""
        encoder: Any = components["text_encoder"]
        text: Any = getattr(encoder, "text_model", encoder)
        layers = text.encoder.layers
        if count >= len(layers):
            raise UsageError(
                f"clip_skip: {count + 1} is more than the text encoder can skip, which has "
                f"{len(layers)} layers",
                f"Use at most {len(layers)}.",
            )
        for layer in layers[-count:]:
            layer.register_forward_hook(_pass_on, with_kwargs=True)

    def predict(
        self, network: nn.Module, noisy: Tensor, timesteps: Tensor, condition: Condition
    ) -> Tensor:
        """The U-Net's answer."""
        answer: Tensor = network(noisy, timesteps, encoder_hidden_states=condition["text"]).sample
        return answer

    def shape_step(self, components: Components) -> int:
        """Of one latent where the U-Net's are fewest: it halves them from level to level."""
        latent = self.resolution(components) // self.latent_shape(components)[-1]
        levels: int = len(components["unet"].config.block_out_channels)
        return latent * 2 ** (levels - 1)

    # Pictures

    def resolution(self, components: Components) -> int:
        """Of the latents, times the autoencoder's factor."""
        blocks = len(components["vae"].config.block_out_channels)
        return int(components["unet"].config.sample_size) * 2 ** (blocks - 1)

    def latent_shape(self, components: Components) -> tuple[int, int, int]:
        """As the U-Net's configuration says."""
        config = components["unet"].config
        return int(config.in_channels), int(config.sample_size), int(config.sample_size)

    def encode(self, components: Components, pixels: Tensor) -> LatentDistribution:
        """The autoencoder's posterior, scaled."""
        from apdm_cli.diffusion.latents import LatentDistribution

        vae = components["vae"]
        posterior = vae.encode(pixels.to(vae.dtype)).latent_dist
        scale = vae.config.scaling_factor
        return LatentDistribution(posterior.mean.float() * scale, posterior.std.float() * scale)

    def decode(self, components: Components, latents: Tensor) -> Tensor:
        """The autoencoder's picture."""
        vae = components["vae"]
        scaled = latents.to(vae.dtype) / vae.config.scaling_factor
        picture: Tensor = vae.decode(scaled).sample.float() / 2 + 0.5
        return picture

    def sample(self, components: Components, drawing: Drawing) -> Tensor:
        """With diffusers' own pipeline and one of its samplers in the place of the scheduler."""
        import diffusers

        _check_zero_snr(components["scheduler"].config, drawing.sampler)
        kind = getattr(diffusers, self.schedulers[drawing.sampler])
        config = {**SAMPLER_DEFAULTS.get(drawing.sampler, {}), **components["scheduler"].config}
        sampler = kind.from_config(config, **NEVER_CLIPPED)
        side = self.resolution(components)
        pipeline = self.pipeline(components)
        pipeline.scheduler = sampler
        latents: Tensor = self.draw(pipeline, drawing, side, prompt=list(drawing.prompts))
        return latents


def _pass_on(layer: nn.Module, given: tuple[Any, ...], named: Any, output: Any) -> Any:
    """A hook: what goes into a layer of the text encoder comes out of it."""
    hidden = given[0] if given else named["hidden_states"]
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


def _check_zero_snr(config: Mapping[str, Any], sampler: str) -> None:
    """Refuse to draw with a schedule that the model was not trained on."""
    if sampler == "pndm" and config.get("rescale_betas_zero_snr"):
        raise ApdmError(
            "the model was trained with a zero terminal signal-to-noise ratio, which the sampler "
            "pndm does not have",
            "Use --sampler ddim.",
        )
