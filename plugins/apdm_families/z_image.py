"""Z-Image: one stream of latents and of what a Qwen3 language model makes of the prompt.

diffusers and transformers take seconds to import, so every method imports what it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from apdm_cli.diffusion.family import AdapterTargets, Components, Drawing, FamilyDefaults
from apdm_families.chat_transformer import ChatTransformer, padded, unpadded
from apdm_families.flow_transformer import check_same, check_side, factor_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from apdm_cli.diffusion.condition import Condition


class ZImage(ChatTransformer):
    """Z-Image and Z-Image-Turbo from a diffusers folder, a hub id, or a file beside a folder."""

    name = "z-image"
    title = "Z-Image (ZImagePipeline)"
    pipeline_class = "ZImagePipeline"
    networks: ClassVar = {
        "transformer": ("diffusers", "ZImageTransformer2DModel"),
        "vae": ("diffusers", "AutoencoderKL"),
        "text_encoder": ("transformers", "Qwen3Model", "Qwen3ForCausalLM"),
    }
    # Lumina 2, from which it descends, lacks the second.
    file_marks = ("noise_refiner.0.attention.qkv.weight", "cap_pad_token")
    thinking = True
    recordable = False  # `predict` asks for the lengths of prompts
    # Of ZImagePipeline; Turbo takes 9 steps and guidance 0.
    defaults = FamilyDefaults(sampler="euler", steps=50, guidance=5.0, class_sampler="euler")
    adapter_targets = AdapterTargets(
        attention=("to_q", "to_k", "to_v", "to_out.0"),
        feed_forward=("feed_forward.w1", "feed_forward.w2", "feed_forward.w3"),
    )

    # Opening

    def check(self, components: Components, folder: Path) -> None:
        """Refuse parts that do not fit together."""
        transformer, vae = components["transformer"].config, components["vae"]
        channels, width = vae.config.latent_channels, components["text_encoder"].config.hidden_size
        ours = "latents of its autoencoder"
        check_same(folder, transformer.in_channels, "channels", channels, ours)
        encoder = "hidden states of its text encoder"
        check_same(folder, transformer.cap_feat_dim, "numbers a token", width, encoder)
        check_side(vae, folder)
        self.check_chat(components, folder)

    # Training

    def embed(
        self, components: Components, prompts: Sequence[str], device: torch.device
    ) -> Condition:
        """As `padded`: the language model's hidden states before the last layer."""
        length = self.sequence_length(components)
        rows, _ = self.pipeline(components).encode_prompt(
            list(prompts), device, do_classifier_free_guidance=False, max_sequence_length=length
        )
        return padded(rows, length)

    def predict(
        self, network: nn.Module, noisy: Tensor, timesteps: Tensor, condition: Condition
    ) -> Tensor:
        """The velocity: the transformer counts time towards the picture, 1 − σ, and answers x − ε.

        It takes lists, of pictures as videos of one frame (C, 1, H, W), and of texts unpadded.
        """
        import torch

        pictures = list(noisy.unsqueeze(2).unbind())
        towards = (1000 - timesteps) / 1000
        answers = network(pictures, towards, unpadded(condition), return_dict=False)[0]
        return -torch.stack(answers).squeeze(2)

    # Pictures

    def resolution(self, components: Components) -> int:
        """As the autoencoder's configuration says: the transformer takes any."""
        return int(components["vae"].config.sample_size)

    def latent_shape(self, components: Components) -> tuple[int, int, int]:
        """Of the autoencoder."""
        side = self.resolution(components) // factor_of(components["vae"])
        return int(components["vae"].config.latent_channels), side, side

    def sample(self, components: Components, drawing: Drawing) -> Tensor:
        """With diffusers' own pipeline, whose guidance s is v(prompt) + s (v(prompt) − v("")).

        That is none at 0, where others call it none at 1.
        """
        device = drawing.noise.device
        condition = self.embed(components, drawing.prompts, device)
        latents: Tensor = self.draw(
            self.drawing_pipeline(components),
            drawing,
            self.resolution(components),
            prompt_embeds=unpadded(condition),
            negative_prompt_embeds=unpadded(
                self.embed(components, [""], device).expand(len(condition))
            ),
        )
        return latents
