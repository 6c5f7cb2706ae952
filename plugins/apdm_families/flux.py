"""FLUX.1: a transformer on packed latents, asked with a pooled CLIP vector and a T5 sequence.

diffusers and transformers take seconds to import, so every method imports what it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from apdm_cli.diffusion.family import AdapterTargets, Components, Drawing, FamilyDefaults
from apdm_cli.errors import ApdmError
from apdm_families.flow_transformer import FlowTransformer, check_side, factor_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from apdm_cli.diffusion.condition import Condition

# FLUX.1 [dev] was distilled to take the guidance as an input. Training asks it as with none, as
# diffusers' DreamBooth example for FLUX does (--guidance_scale=1).
TRAINING_GUIDANCE = 1.0
LONGEST_SEQUENCE = 512  # tokens that FLUX.1 was trained to read of T5
SINGLE_BLOCKS = 38


class Flux(FlowTransformer):
    """FLUX.1 dev and schnell from a diffusers folder, a hub id, or a file beside a folder.

    CLIP's text encoder may be trained, as trainers do it; T5 stays.
    """

    name = "flux"
    title = "FLUX.1 (FluxPipeline)"
    pipeline_class = "FluxPipeline"
    networks: ClassVar = {
        "transformer": ("diffusers", "FluxTransformer2DModel"),
        "vae": ("diffusers", "AutoencoderKL"),
        "text_encoder": ("transformers", "CLIPTextModel"),
        "text_encoder_2": ("transformers", "T5EncoderModel"),
    }
    # FLUX.2 and Chroma lack the second, HunyuanVideo the first.
    file_marks = ("double_blocks.0.img_attn.qkv.weight", "vector_in.in_layer.weight")
    tokenizers = ("tokenizer", "tokenizer_2")
    exact = ("img_ids", "txt_ids")
    # Of FluxPipeline.
    defaults = FamilyDefaults(sampler="euler", steps=28, guidance=3.5, class_sampler="euler")
    adapter_targets = AdapterTargets(
        attention=(
            *("to_q", "to_k", "to_v", "to_out.0"),
            *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
        ),
        feed_forward=(
            *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
            "proj_mlp",
            # By their whole names: the transformer's last layer is called proj_out as well.
            *(f"single_transformer_blocks.{block}.proj_out" for block in range(SINGLE_BLOCKS)),
        ),
    )

    # Opening

    def check(self, components: Components, folder: Path) -> None:
        """Refuse parts that do not fit together, and transformers for other tasks."""
        from apdm_families.checks import HINT, check_tokenizer

        vae, transformer = components["vae"].config, components["transformer"].config
        if transformer.in_channels != 4 * vae.latent_channels:
            raise ApdmError(
                f"{folder}: its transformer takes {transformer.in_channels} channels, and packed "
                f"latents of its autoencoder have {4 * vae.latent_channels}",
                "Models that fill in, edit or follow a control picture are not supported: take the "
                "one for text-to-image that it was made from.",
            )
        check_side(components["vae"], folder)
        positions = int(components["text_encoder"].config.max_position_embeddings)
        check_tokenizer(components["tokenizer"], positions, str(folder))
        if components["tokenizer_2"].pad_token_id is None:
            raise ApdmError(f"{folder}: its tokenizer_2 has no pad_token", HINT)

    # Training

    def embed(
        self, components: Components, prompts: Sequence[str], device: torch.device
    ) -> Condition:
        """`Condition({"sequence": (B, L, D), "pooled": (B, P)})`: of T5, and of CLIP."""
        from apdm_cli.diffusion.condition import Condition
        from apdm_families.diffusers_folder import QuietLibraries

        with QuietLibraries():  # it says what the pipeline cuts off
            sequence, pooled, _ = self.pipeline(components).encode_prompt(
                list(prompts),
                device=device,
                max_sequence_length=min(
                    LONGEST_SEQUENCE, components["tokenizer_2"].model_max_length
                ),
            )
        return Condition({"sequence": sequence.float(), "pooled": pooled.float()})

    def predict(
        self, network: nn.Module, noisy: Tensor, timesteps: Tensor, condition: Condition
    ) -> Tensor:
        """The transformer's velocity, as `FluxPipeline` asks for it."""
        import torch
        from diffusers import FluxPipeline

        batch, channels, height, width = noisy.shape
        sequence = condition["sequence"]
        config: Any = network.config
        guidance = torch.full((batch,), TRAINING_GUIDANCE, device=noisy.device)
        answer = network(
            hidden_states=FluxPipeline._pack_latents(noisy, batch, channels, height, width),
            timestep=timesteps / 1000,
            guidance=guidance if config.guidance_embeds else None,
            pooled_projections=condition["pooled"],
            encoder_hidden_states=sequence,
            txt_ids=torch.zeros(sequence.shape[1], 3, device=noisy.device),
            img_ids=_positions(height // 2, width // 2, noisy.device),
            return_dict=False,
        )[0]
        # The autoencoder's factor belongs to pixels; here sizes are those of latents.
        unpacked: Tensor = FluxPipeline._unpack_latents(answer, height, width, 1)
        return unpacked

    # Pictures

    def resolution(self, components: Components) -> int:
        """As the autoencoder's configuration says: the transformer takes any."""
        return int(components["vae"].config.sample_size)

    def latent_shape(self, components: Components) -> tuple[int, int, int]:
        """Before they are packed."""
        side = self.resolution(components) // factor_of(components["vae"])
        return int(components["vae"].config.latent_channels), side, side

    def sample(self, components: Components, drawing: Drawing) -> Tensor:
        """With diffusers' own pipeline; a model without a guidance input ignores the guidance."""
        pipeline = self.drawing_pipeline(components)
        batch, channels, height, width = drawing.noise.shape
        condition = self.embed(components, drawing.prompts, drawing.noise.device)
        side = self.resolution(components)
        packed = self.draw(
            pipeline,
            drawing,
            side,
            prompt_embeds=condition["sequence"],
            pooled_prompt_embeds=condition["pooled"],
            latents=pipeline._pack_latents(drawing.noise, batch, channels, height, width),
        )
        latents: Tensor = pipeline._unpack_latents(packed, side, side, pipeline.vae_scale_factor)
        return latents


def _positions(height: int, width: int, device: torch.device) -> Tensor:
    """Zero, row and column of every packed latent, (height · width, 3), as the pipeline counts.

    That makes them in main memory, and while passes are recorded nothing comes from there.
    """
    import torch

    ids = torch.cartesian_prod(
        *(torch.arange(count, device=device) for count in (1, height, width))
    )
    return ids.float()
