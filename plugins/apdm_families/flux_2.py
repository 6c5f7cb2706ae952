"""FLUX.2 [klein]: a transformer on packed, normalized latents, asked with layers of a Qwen3 model.

diffusers and transformers take seconds to import, so every method imports what it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from apdm_cli.diffusion.family import AdapterTargets, Components, Drawing, FamilyDefaults
from apdm_cli.errors import ApdmError
from apdm_families.chat_transformer import ChatTransformer
from apdm_families.checks import HINT
from apdm_families.flow_transformer import check_same, check_side, factor_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from apdm_cli.diffusion.condition import Condition
    from apdm_cli.diffusion.latents import LatentDistribution

LAYERS = (9, 18, 27)  # of the language model, whose hidden states are read side by side
SINGLE_BLOCKS = 48  # of the largest FLUX.2


class Flux2(ChatTransformer):
    """FLUX.2 [klein] 4B and 9B, base and distilled, from a folder, a hub id, or a file beside one.

    Latents are those that the transformer sees: 2 by 2 of the autoencoder's are one of four times
    the channels, normalized with the statistics that the autoencoder brings.
    """

    name = "flux2"
    title = "FLUX.2 [klein] (Flux2KleinPipeline)"
    pipeline_class = "Flux2KleinPipeline"
    networks: ClassVar = {
        "transformer": ("diffusers", "Flux2Transformer2DModel"),
        "vae": ("diffusers", "AutoencoderKLFlux2"),
        "text_encoder": ("transformers", "Qwen3ForCausalLM", "Qwen3Model"),
    }
    # FLUX.1 lacks the second.
    file_marks = ("double_blocks.0.img_attn.qkv.weight", "single_stream_modulation.lin.weight")
    thinking = False
    # Of Flux2KleinPipeline; the distilled models take 4 steps, and ignore the guidance.
    defaults = FamilyDefaults(sampler="euler", steps=50, guidance=4.0, class_sampler="euler")
    adapter_targets = AdapterTargets(
        attention=(
            *("to_q", "to_k", "to_v", "to_out.0"),
            *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
            # Single blocks compute attention and feed-forward in one layer into each and one out.
            "to_qkv_mlp_proj",
            *(f"single_transformer_blocks.{block}.attn.to_out" for block in range(SINGLE_BLOCKS)),
        ),
        feed_forward=(
            *("ff.linear_in", "ff.linear_out", "ff_context.linear_in", "ff_context.linear_out"),
        ),
    )

    # Opening

    def open(self, folder: Path) -> Components:
        """With what the folder's index says of the guidance, which the pipeline wants to know."""
        return self._told(super().open(folder), folder)

    def open_file(self, file: Path) -> Components:
        """The same."""
        return self._told(super().open_file(file), file.with_suffix(""))

    def _told(self, components: Components, folder: Path) -> Components:
        from apdm_cli.diffusion.saving import INDEX
        from apdm_cli.runs.manifest import read_json

        distilled = read_json(folder / INDEX, foreign=True).get("is_distilled")
        return {**components, "is_distilled": distilled is True}

    def check(self, components: Components, folder: Path) -> None:
        """Refuse parts that do not fit together, and a language model without the layers."""
        transformer, vae = components["transformer"].config, components["vae"]
        channels = 4 * vae.config.latent_channels
        ours = "packed latents of its autoencoder"
        check_same(folder, transformer.in_channels, "channels", channels, ours)
        encoder = components["text_encoder"].config
        width, whose = len(LAYERS) * encoder.hidden_size, "three layers of its text encoder"
        check_same(folder, transformer.joint_attention_dim, "numbers a token", width, whose)
        if encoder.num_hidden_layers < max(LAYERS):
            raise ApdmError(
                f"{folder}: its text encoder has {encoder.num_hidden_layers} layers, of which "
                f"number {', '.join(map(str, LAYERS))} are read",
                HINT,
            )
        check_side(vae, folder)
        self.check_chat(components, folder)

    # Training

    def embed(
        self, components: Components, prompts: Sequence[str], device: torch.device
    ) -> Condition:
        """`Condition({"sequence": (B, L, 3 D)})`; the transformer reads what pads it as well."""
        from apdm_cli.diffusion.condition import Condition

        sequence, _ = self.pipeline(components).encode_prompt(
            list(prompts), device, max_sequence_length=self.sequence_length(components)
        )
        return Condition({"sequence": sequence.float()})

    def predict(
        self, network: nn.Module, noisy: Tensor, timesteps: Tensor, condition: Condition
    ) -> Tensor:
        """The transformer's velocity, as `Flux2KleinPipeline` asks for it."""
        from diffusers import Flux2KleinPipeline

        batch, _, height, width = noisy.shape
        answer: Tensor = network(
            hidden_states=Flux2KleinPipeline._pack_latents(noisy),
            timestep=timesteps / 1000,
            guidance=None,
            encoder_hidden_states=condition["sequence"],
            txt_ids=_positions(batch, (1, 1, 1, condition["sequence"].shape[1]), noisy.device),
            img_ids=_positions(batch, (1, height, width, 1), noisy.device),
            return_dict=False,
        )[0]
        return answer.mT.reshape(noisy.shape)

    # Pictures

    def resolution(self, components: Components) -> int:
        """As the autoencoder's configuration says: the transformer takes any."""
        return int(components["vae"].config.sample_size)

    def latent_shape(self, components: Components) -> tuple[int, int, int]:
        """Of latents 2 by 2."""
        side = self.resolution(components) // (2 * factor_of(components["vae"]))
        return 4 * int(components["vae"].config.latent_channels), side, side

    def encode(self, components: Components, pixels: Tensor) -> LatentDistribution:
        """The autoencoder's posterior, 2 by 2, less the mean of each channel, over its deviation.

        The pipeline and the trainers take the posterior's mean, without drawing from it.
        """
        from diffusers import Flux2KleinPipeline

        from apdm_cli.diffusion.latents import LatentDistribution

        vae = components["vae"]
        posterior = vae.encode(pixels.to(vae.dtype)).latent_dist
        packed = Flux2KleinPipeline._patchify_latents(posterior.mean.float())
        mean, deviation = _statistics(vae)
        return LatentDistribution.exact((packed - mean) / deviation)

    def decode(self, components: Components, latents: Tensor) -> Tensor:
        """The autoencoder's picture."""
        from diffusers import Flux2KleinPipeline

        vae = components["vae"]
        mean, deviation = _statistics(vae)
        plain = Flux2KleinPipeline._unpatchify_latents(latents.float() * deviation + mean)
        picture: Tensor = vae.decode(plain.to(vae.dtype)).sample.float() / 2 + 0.5
        return picture

    def sample(self, components: Components, drawing: Drawing) -> Tensor:
        """With diffusers' own pipeline; what it gives back is undone, as `encode` does it."""
        from diffusers import Flux2KleinPipeline

        device = drawing.noise.device
        condition = self.embed(components, drawing.prompts, device)
        empty = self.embed(components, [""], device).expand(len(condition))
        plain = self.draw(
            self.drawing_pipeline(components),
            drawing,
            self.resolution(components),
            prompt_embeds=condition["sequence"],
            negative_prompt_embeds=empty["sequence"],
        )
        mean, deviation = _statistics(components["vae"])
        latents: Tensor = (Flux2KleinPipeline._patchify_latents(plain) - mean) / deviation
        return latents


def _positions(batch: int, counts: tuple[int, int, int, int], device: torch.device) -> Tensor:
    """Time, row, column and place in the text of all that there are of each, (B, N, 4).

    The pipeline makes the same in main memory, and while passes are recorded nothing comes from
    there.
    """
    import torch

    ids = torch.cartesian_prod(*(torch.arange(count, device=device) for count in counts))
    return ids.expand(batch, -1, -1)


def _statistics(vae: Any) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the packed latents' channels, (1, 4 C, 1, 1)."""
    mean = vae.bn.running_mean.float().view(1, -1, 1, 1)
    variance = vae.bn.running_var.float().view(1, -1, 1, 1)
    return mean, (variance + vae.config.batch_norm_eps).sqrt()
