"""Stable Diffusion 3 and 3.5: a transformer asked with two CLIP encoders and, optionally, T5.

diffusers and transformers take seconds to import, so every method imports what it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from apdm_cli.diffusion.family import AdapterTargets, Components, Drawing, FamilyDefaults
from apdm_cli.errors import ApdmError
from apdm_families.flow_transformer import FlowTransformer, factor_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from apdm_cli.diffusion.condition import Condition

LONGEST_SEQUENCE = 256  # tokens of T5 that StableDiffusion3Pipeline reads


class StableDiffusion3(FlowTransformer):
    """Stable Diffusion 3 and 3.5 from a diffusers folder, a hub id, or a file beside a folder.

    Without T5 (the folder text_encoder_3) its place is filled with zeros, as diffusers does. The
    two CLIP encoders may be trained, as trainers do it; T5 stays.
    """

    name = "sd3"
    title = "Stable Diffusion 3.x (StableDiffusion3Pipeline)"
    pipeline_class = "StableDiffusion3Pipeline"
    networks: ClassVar = {
        "transformer": ("diffusers", "SD3Transformer2DModel"),
        "vae": ("diffusers", "AutoencoderKL"),
        "text_encoder": ("transformers", "CLIPTextModelWithProjection"),
        "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
        "text_encoder_3": ("transformers", "T5EncoderModel"),
    }
    optional = ("text_encoder_3", "tokenizer_3")
    file_marks = ("joint_blocks.0.x_block.attn.qkv.weight", "pos_embed")
    text_encoders = ("text_encoder", "text_encoder_2")
    tokenizers = ("tokenizer", "tokenizer_2", "tokenizer_3")
    # Of StableDiffusion3Pipeline.
    defaults = FamilyDefaults(sampler="euler", steps=28, guidance=7.0, class_sampler="euler")
    adapter_targets = AdapterTargets(
        attention=(
            *("to_q", "to_k", "to_v", "to_out.0"),
            *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
        ),
        feed_forward=("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
    )

    # Opening

    def check(self, components: Components, folder: Path) -> None:
        """Refuse parts that do not fit together, and half a T5."""
        from apdm_families.checks import HINT, check_tokenizer

        vae, transformer = components["vae"].config, components["transformer"].config
        if transformer.in_channels != vae.latent_channels:
            raise ApdmError(
                f"{folder}: its transformer takes {transformer.in_channels} channels, and latents "
                f"of its autoencoder have {vae.latent_channels}",
                HINT,
            )
        if (components["text_encoder_3"] is None) != (components["tokenizer_3"] is None):
            raise ApdmError(
                f"{folder} has one of text_encoder_3 and tokenizer_3, which go together", HINT
            )
        # The pipeline cuts prompts for both CLIP encoders where the first of them ends.
        positions = min(
            int(components[name].config.max_position_embeddings) for name in self.text_encoders
        )
        for name in ("tokenizer", "tokenizer_2"):
            check_tokenizer(components[name], positions, str(folder))

    # Training

    def embed(
        self, components: Components, prompts: Sequence[str], device: torch.device
    ) -> Condition:
        """`Condition({"sequence": (B, L, D), "pooled": (B, P)})`: of all three, and of CLIP's."""
        from apdm_cli.diffusion.condition import Condition
        from apdm_families.diffusers_folder import QuietLibraries

        tokenizer = components["tokenizer_3"]
        longest = LONGEST_SEQUENCE if tokenizer is None else tokenizer.model_max_length
        with QuietLibraries():  # it says what the pipeline cuts off
            sequence, _, pooled, _ = self.pipeline(components).encode_prompt(
                list(prompts),
                None,
                None,
                device=device,
                do_classifier_free_guidance=False,
                max_sequence_length=min(LONGEST_SEQUENCE, longest),
            )
        return Condition({"sequence": sequence.float(), "pooled": pooled.float()})

    def predict(
        self, network: nn.Module, noisy: Tensor, timesteps: Tensor, condition: Condition
    ) -> Tensor:
        """The transformer's velocity."""
        answer: Tensor = network(
            hidden_states=noisy,
            timestep=timesteps,
            encoder_hidden_states=condition["sequence"],
            pooled_projections=condition["pooled"],
            return_dict=False,
        )[0]
        return answer

    def shape_step(self, components: Components) -> int | None:
        """None where the positions that the transformer knows end before the longest side."""
        config = components["transformer"].config
        longest = 2 * config.sample_size // config.patch_size
        known = config.pos_embed_max_size is None or config.pos_embed_max_size >= longest
        return super().shape_step(components) if known else None

    # Pictures

    def resolution(self, components: Components) -> int:
        """Of the latents, times the autoencoder's factor."""
        return int(components["transformer"].config.sample_size) * factor_of(components["vae"])

    def latent_shape(self, components: Components) -> tuple[int, int, int]:
        """As the transformer's configuration says."""
        config = components["transformer"].config
        return int(config.in_channels), int(config.sample_size), int(config.sample_size)

    def sample(self, components: Components, drawing: Drawing) -> Tensor:
        """With diffusers' own pipeline."""
        device, side = drawing.noise.device, self.resolution(components)
        condition = self.embed(components, drawing.prompts, device)
        empty = self.embed(components, [""] * len(condition), device)
        latents: Tensor = self.draw(
            self.drawing_pipeline(components),
            drawing,
            side,
            prompt_embeds=condition["sequence"],
            pooled_prompt_embeds=condition["pooled"],
            negative_prompt_embeds=empty["sequence"],
            negative_pooled_prompt_embeds=empty["pooled"],
        )
        return latents
