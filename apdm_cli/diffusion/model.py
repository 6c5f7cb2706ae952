"""A loaded latent diffusion model behind the few operations that the method needs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from apdm_cli.diffusion.condition import Condition
from apdm_cli.diffusion.denoiser import Denoiser
from apdm_cli.diffusion.family import Components, Family
from apdm_cli.diffusion.latents import LatentDistribution
from apdm_cli.diffusion.process import NoiseProcess
from apdm_cli.diffusion.recording import Recorder
from apdm_cli.errors import ApdmError

ENCODING_BATCH = 16


class PromptNotFinite(ApdmError):
    """What a prompt becomes is NaN or infinite."""


@dataclass(frozen=True)
class ModelRef:
    """What was loaded.

    Attributes:
        source: the path, file or hub id as the user gave it; "pocket" for the embedded model.
        revision: hub revision, if one was asked for.
        digest: SHA-256 over the weights, 64 hexadecimal digits. It pins the model.
    """

    source: str
    revision: str | None
    digest: str


@dataclass(frozen=True)
class DiffusionModel:
    """The components of a model, with the family that knows what to do with them.

    Attributes:
        family: the kind of model it is.
        components: name → network, tokenizer, scheduler. The trained network is held in float32,
            the others in `dtype`.
        process: how its latents are noised.
        ref: where it came from.
        device, dtype: where and in which precision it computes.
        origin: what has the parts that are not trained: a diffusers folder, or a single file.
        origin_digest: of `origin` as it was opened, like that of `ref`.
        profile: "pocket" where the embedded model's settings fit it, otherwise empty.
        recorder: plays the trained network's passes back as CUDA graphs; None launches them.
    """

    family: Family
    components: Components
    process: NoiseProcess
    ref: ModelRef
    device: torch.device
    dtype: torch.dtype
    origin: Path | None = None
    origin_digest: str = ""
    profile: str = ""
    recorder: Recorder | None = None

    @property
    def trained(self) -> nn.Module:
        """The network that personalization and protection train."""
        network: nn.Module = self.components[self.family.trained]
        return network

    @property
    def denoiser(self) -> Denoiser:
        """The trained network with its noise process."""
        forward = self.recorder or self.family.predict
        return Denoiser(self.trained, self.process, forward, self.dtype)

    def launched(self) -> DiffusionModel:
        """The same model without recordings: of passes that change from one to the next."""
        return replace(self, recorder=None)

    @property
    def pipeline(self) -> Any:
        """diffusers' own pipeline around these very components, for its loaders."""
        return self.family.pipeline(self.components)

    @property
    def resolution(self) -> int:
        """Side of the square pictures that the model was made for, in pixels."""
        return self.family.resolution(self.components)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one picture's latents."""
        return self.family.latent_shape(self.components)

    @property
    def tokenizer(self) -> Any | None:
        """The first of the family's tokenizers, if it has one."""
        names = self.family.tokenizers
        return self.components[names[0]] if names else None

    def component(self, name: str) -> Any:
        """The component called `name`; ApdmError for a family that has none."""
        if self.components.get(name) is None:
            raise ApdmError(f"{self.family.title} has no component {name!r}")
        return self.components[name]

    def networks(self) -> dict[str, nn.Module]:
        """The components that have weights, by name."""
        return {n: part for n, part in self.components.items() if isinstance(part, nn.Module)}

    def private_copy(
        self, *, text_encoders: bool = True, trained: nn.Module | None = None
    ) -> DiffusionModel:
        """A model whose trained network (and text encoders) may change without touching this one.

        The autoencoder is shared: nothing here ever trains it.

        Args:
            trained: its trained network; a copy of this one's unless given.
        """
        own = {self.family.trained: copy.deepcopy(self.trained) if trained is None else trained}
        if text_encoders:
            for name in (*self.family.text_encoders, *self.family.tokenizers):
                own[name] = copy.deepcopy(self.components[name])
        return replace(self, components={**self.components, **own})

    def embed(self, prompts: Sequence[str]) -> Condition:
        """What `prompts` become, one row each: float32, with gradients where they are on.

        Raises:
            PromptNotFinite: without gradients, which a loss would show, they are not finite.
        """
        found = self.family.embed(self.components, list(prompts), self.device)
        for tensor in found.tensors.values():
            # Of one that is trained the loss is looked at, without waiting for the card here.
            if not tensor.requires_grad and not torch.isfinite(tensor).all():
                raise PromptNotFinite(
                    "the text encoder makes numbers of a prompt that are not finite (NaN or "
                    "infinite)",
                    self._too_narrow_for("text encoders", "bf16 or fp32"),
                )
        return found

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Condition:
        """`embed` without gradients."""
        return self.embed(prompts)

    def posterior(self, pixels: Tensor) -> LatentDistribution:
        """`encode_pixels` of one batch (B, 3, R, R), with gradients where they are on."""
        return self.family.encode(self.components, pixels.to(self.device))

    @torch.no_grad()
    def encode_pixels(self, pixels: Tensor) -> LatentDistribution:
        """The autoencoder's posterior of `pixels` (N, 3, R, R) in [-1, 1], scaled, float32."""
        found = [self.posterior(part) for part in pixels.split(ENCODING_BATCH)]
        means, stds = (
            torch.cat([getattr(one, name).float() for one in found]) for name in ("mean", "std")
        )
        if not (torch.isfinite(means).all() and torch.isfinite(stds).all()):
            raise ApdmError(
                "the autoencoder makes latents of the photos that are not finite (NaN or infinite)",
                self._too_narrow_for("autoencoders", "fp32 or bf16"),
            )
        return LatentDistribution(means, stds)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (N, 3, R, R) in [0, 1], float32, of scaled latents (N, C, H, W)."""
        pictures = [
            self.family.decode(self.components, part.to(self.device)).float()
            for part in latents.split(ENCODING_BATCH)
        ]
        return torch.cat(pictures).clamp(0, 1)

    def _too_narrow_for(self, parts: str, wider: str) -> str:
        if self.dtype == torch.float32:
            return "The model is damaged: fetch its files again."
        return f"Half precision is too narrow for some {parts}: try --dtype {wider}."
