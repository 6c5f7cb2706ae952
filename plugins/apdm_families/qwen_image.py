"""Qwen-Image: a transformer on packed latents, asked with what Qwen2.5-VL makes of the prompt.

diffusers and transformers take seconds to import, so every method imports what it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from apdm_cli.diffusion.family import AdapterTargets, Components, Drawing, FamilyDefaults
from apdm_families.chat_transformer import ChatTransformer, lengths_of, padded
from apdm_families.flow_transformer import check_same

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from apdm_cli.diffusion.condition import Condition
    from apdm_cli.diffusion.latents import LatentDistribution


class QwenImage(ChatTransformer):
    """Qwen-Image from a diffusers folder, a hub id, or a file beside a folder.

    Attributes:
        side: of its pictures in pixels; no configuration file names it.
    """

    name = "qwen-image"
    title = "Qwen-Image (QwenImagePipeline)"
    pipeline_class = "QwenImagePipeline"
    networks: ClassVar = {
        "transformer": ("diffusers", "QwenImageTransformer2DModel"),
        "vae": ("diffusers", "AutoencoderKLQwenImage"),
        "text_encoder": ("transformers", "Qwen2_5_VLForConditionalGeneration"),
    }
    # Files have the names of diffusers.
    file_marks = ("transformer_blocks.0.img_mod.1.weight", "txt_norm.weight")
    recordable = False  # `predict` asks for the lengths of prompts
    dropped = 34  # of QwenImagePipeline.prompt_template_encode_start_idx
    side: ClassVar[int] = 1024
    # Of QwenImagePipeline.
    defaults = FamilyDefaults(sampler="euler", steps=50, guidance=4.0, class_sampler="euler")
    adapter_targets = AdapterTargets(
        attention=(
            *("to_q", "to_k", "to_v", "to_out.0"),
            *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
        ),
        feed_forward=(
            *("img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2"),
        ),
    )

    # Opening

    def check(self, components: Components, folder: Path) -> None:
        """Refuse parts that do not fit together."""
        transformer, vae = components["transformer"].config, components["vae"].config
        ours = "packed latents of its autoencoder"
        check_same(folder, transformer.in_channels, "channels", 4 * vae.z_dim, ours)
        width = components["text_encoder"].config.get_text_config().hidden_size
        encoder = "hidden states of its text encoder"
        check_same(folder, transformer.joint_attention_dim, "numbers a token", width, encoder)
        self.check_chat(components, folder)

    def around(self, components: Components) -> str:
        """The pipeline's own template."""
        text: str = self.pipeline(components).prompt_template_encode
        return text.format("")

    # Training

    def embed(
        self, components: Components, prompts: Sequence[str], device: torch.device
    ) -> Condition:
        """As `padded`: the language model's last hidden states, from the prompt on."""
        length = self.sequence_length(components)
        sequence, mask = self.pipeline(components).encode_prompt(
            list(prompts), device, max_sequence_length=length
        )
        lengths = [len(row) for row in sequence] if mask is None else mask.sum(dim=1).tolist()
        return padded([row[:n] for row, n in zip(sequence, lengths, strict=True)], length)

    def predict(
        self, network: nn.Module, noisy: Tensor, timesteps: Tensor, condition: Condition
    ) -> Tensor:
        """The transformer's velocity, as `QwenImagePipeline` asks for it."""
        from diffusers import QwenImagePipeline

        batch, channels, height, width = noisy.shape
        sequence, mask = _as_asked(condition)
        answer = network(
            hidden_states=QwenImagePipeline._pack_latents(noisy, batch, channels, height, width),
            timestep=timesteps / 1000,
            guidance=None,
            encoder_hidden_states=sequence,
            encoder_hidden_states_mask=mask,
            img_shapes=[[(1, height // 2, width // 2)]] * batch,
            return_dict=False,
        )[0]
        # The autoencoder's factor belongs to pixels; here sizes are those of latents.
        unpacked: Tensor = QwenImagePipeline._unpack_latents(answer, height, width, 1)
        return unpacked.squeeze(2)

    # Pictures

    def resolution(self, components: Components) -> int:
        """What it was made for: the transformer takes any."""
        return self.side

    def latent_shape(self, components: Components) -> tuple[int, int, int]:
        """Before they are packed."""
        side = self.side // self.pipeline(components).vae_scale_factor
        return int(components["vae"].config.z_dim), side, side

    def encode(self, components: Components, pixels: Tensor) -> LatentDistribution:
        """The posterior of a video of one frame, less the mean of each channel, over its deviation.

        Both are in the autoencoder's configuration.
        """
        from apdm_cli.diffusion.latents import LatentDistribution

        vae = components["vae"]
        posterior = vae.encode(pixels.to(vae.dtype).unsqueeze(2)).latent_dist
        mean, deviation = _statistics(vae)
        return LatentDistribution(
            (posterior.mean.float().squeeze(2) - mean) / deviation,
            posterior.std.float().squeeze(2) / deviation,
        )

    def decode(self, components: Components, latents: Tensor) -> Tensor:
        """The autoencoder's only frame."""
        vae = components["vae"]
        mean, deviation = _statistics(vae)
        plain = (latents * deviation + mean).to(vae.dtype).unsqueeze(2)
        picture: Tensor = vae.decode(plain).sample[:, :, 0].float() / 2 + 0.5
        return picture

    def sample(self, components: Components, drawing: Drawing) -> Tensor:
        """With diffusers' own pipeline, which calls `true_cfg_scale` what is guidance here."""
        from apdm_families.diffusers_folder import QuietLibraries

        pipeline, device = self.drawing_pipeline(components), drawing.noise.device
        batch, channels, height, width = drawing.noise.shape
        condition = self.embed(components, drawing.prompts, device)
        empty = self.embed(components, [""], device).expand(len(condition))
        asked, without = _as_asked(condition), _as_asked(empty)
        with QuietLibraries():  # it warns of what is as it should be
            packed = self.draw(
                pipeline,
                drawing,
                self.side,
                guidance_scale=None,
                true_cfg_scale=drawing.guidance,
                prompt_embeds=asked[0],
                prompt_embeds_mask=asked[1],
                negative_prompt_embeds=without[0],
                negative_prompt_embeds_mask=without[1],
                latents=pipeline._pack_latents(drawing.noise, batch, channels, height, width),
            )
        latents: Tensor = pipeline._unpack_latents(packed, height, width, 1)
        return latents.squeeze(2)


def _as_asked(condition: Condition) -> tuple[Tensor, Tensor | None]:
    """The sequences as long as the longest, and which of their tokens are some, if not all."""
    import torch

    lengths, sequence = lengths_of(condition), condition["sequence"]
    longest = max(lengths)
    if min(lengths) == longest:
        return sequence[:, :longest], None
    rows = [[1] * length + [0] * (longest - length) for length in lengths]
    return sequence[:, :longest], torch.tensor(rows, device=sequence.device)


def _statistics(vae: Any) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the latents' channels, (1, C, 1, 1)."""
    import torch

    mean, deviation = (
        torch.tensor(values, device=vae.device).view(1, -1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return mean, deviation
