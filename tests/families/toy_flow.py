"""A family of models in one file: what a plugin brings that opens another kind of model.

Nothing in it is like Stable Diffusion: a small transformer in place of a U-Net, flow matching in
place of diffusion, and conditions of two tensors, a sequence and a pooled vector.
"""

from __future__ import annotations

import itertools
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.nn import functional

from apdm_cli.plugin import (
    AdapterTargets,
    Components,
    Condition,
    Drawing,
    Family,
    FamilyDefaults,
    FlowMatching,
    LatentDistribution,
    hookimpl,
)

SIDE, CHANNELS, WIDTH, WORDS, LENGTH, FACTOR = 8, 3, 24, 64, 8, 4
INDEX = {
    "_class_name": "ToyFlowPipeline",
    "transformer": ["toy_flow", "Transformer"],
    "text_encoder": ["toy_flow", "TextEncoder"],
    "notes": ["toy_flow", "Notes"],
}


class Part(nn.Module):
    """A network with the two methods that the networks of diffusers and transformers have."""

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self, str(folder / "model.safetensors"))

    @classmethod
    def from_pretrained(cls, folder: Path, local_files_only: bool = True) -> Part:
        part = cls()
        load_model(part, folder / "model.safetensors")
        return part.eval()


class TextEncoder(Part):
    """Words, by their checksum, to a sequence (B, L, D) and its pooled vector (B, D)."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.pool = nn.Linear(WIDTH, WIDTH)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        sequence = self.words(ids)
        return sequence, self.pool(sequence.mean(dim=1))


class Transformer(Part):
    """One block over the latents' places, which also looks at the words of the prompt."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(CHANNELS, WIDTH)
        self.places = nn.Parameter(torch.zeros(SIDE * SIDE, WIDTH))
        self.time = nn.Linear(2, WIDTH)
        self.to_q, self.to_k, self.to_v, self.to_out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.mix = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, CHANNELS))

    def forward(self, latents: Tensor, sigma: Tensor, words: Tensor, pooled: Tensor) -> Tensor:
        angle = torch.stack([sigma.cos(), sigma.sin()], dim=-1)
        places = self.into(latents.flatten(2).mT) + self.places
        places = places + (self.time(angle) + pooled)[:, None]
        seen = torch.cat([places, words], dim=1)
        attended = functional.scaled_dot_product_attention(
            self.to_q(places)[:, None], self.to_k(seen)[:, None], self.to_v(seen)[:, None]
        )
        answer = self.mix(places + self.to_out(attended[:, 0]))
        return answer.mT.reshape(latents.shape)


class ToyFlow(Family):
    """Flow matching with a small transformer, for tests."""

    name = "toy-flow"
    title = "the toy flow of the tests"
    trained = "transformer"
    tokenizers = ()
    samplers = ("euler",)
    defaults = FamilyDefaults(sampler="euler", steps=4, guidance=2.0, class_sampler="euler")
    adapter_targets = AdapterTargets(attention=("to_q", "to_k", "to_v", "to_out"), text=("pool",))

    def opens(self, index: Mapping[str, Any]) -> bool:
        return index["_class_name"] == "ToyFlowPipeline"

    def open(self, folder: Path) -> Components:
        kinds = {"transformer": Transformer, "text_encoder": TextEncoder}
        return {name: kind.from_pretrained(folder / name) for name, kind in kinds.items()}

    def process(self, components: Components) -> FlowMatching:
        return FlowMatching()

    def embed(
        self, components: Components, prompts: Sequence[str], device: torch.device
    ) -> Condition:
        ids = torch.zeros(len(prompts), LENGTH, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            for place, word in enumerate(prompt.split()[:LENGTH]):
                ids[row, place] = 1 + zlib.crc32(word.encode()) % (WORDS - 1)
        words, pooled = components["text_encoder"](ids.to(device))
        return Condition({"words": words.float(), "pooled": pooled.float()})

    def predict(
        self, network: nn.Module, noisy: Tensor, timesteps: Tensor, condition: Condition
    ) -> Tensor:
        sigma = timesteps / FlowMatching().scale
        answer: Tensor = network(noisy, sigma, condition["words"], condition["pooled"])
        return answer

    def resolution(self, components: Components) -> int:
        return SIDE * FACTOR

    def latent_shape(self, components: Components) -> tuple[int, int, int]:
        return CHANNELS, SIDE, SIDE

    def encode(self, components: Components, pixels: Tensor) -> LatentDistribution:
        return LatentDistribution.exact(functional.avg_pool2d(pixels, FACTOR))

    def decode(self, components: Components, latents: Tensor) -> Tensor:
        return functional.interpolate(latents, scale_factor=FACTOR) / 2 + 0.5

    def sample(self, components: Components, drawing: Drawing) -> Tensor:
        """Euler's steps along the velocity, from σ = 1 to 0."""
        device, network = drawing.noise.device, components[self.trained]
        wanted = self.embed(components, drawing.prompts, device)
        empty = self.embed(components, [""] * len(wanted), device)
        latents, sigmas = drawing.noise, torch.linspace(1, 0, drawing.steps + 1)
        for sigma, following in itertools.pairwise(sigmas):
            time = (FlowMatching().scale * sigma).expand(len(latents)).to(device)
            velocity = self.predict(network, latents, time, wanted)
            if drawing.guidance > 1:
                without = self.predict(network, latents, time, empty)
                velocity = without + drawing.guidance * (velocity - without)
            latents = latents + (following - sigma) * velocity
        return latents


@hookimpl
def apdm_families() -> list[Family]:
    return [ToyFlow()]


def make_toy_flow(folder: Path, seed: int = 0) -> Path:
    """Write a model of the family with random weights; returns `folder`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        Transformer().save_pretrained(folder / "transformer")
        TextEncoder().save_pretrained(folder / "text_encoder")
    (folder / "notes").mkdir()
    (folder / "notes" / "notes.txt").write_text("Nothing that is trained.")
    (folder / "model_index.json").write_text(json.dumps(INDEX))
    return folder
