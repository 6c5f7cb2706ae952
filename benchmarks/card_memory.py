"""What a card needs to protect a model: computed on its shapes, without any weights.

    python -m benchmarks.card_memory [stable-diffusion] [sdxl] [flux] [--attack lora]

Prints what `apdm protect --dtype bf16 --dry-run` says of these models, whose networks are on
PyTorch's meta device here: it takes no memory to speak of, and minutes of a core.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from apdm_cli.config import resolve
from apdm_cli.diffusion.condition import Condition
from apdm_cli.diffusion.latents import LatentDistribution
from apdm_cli.diffusion.model import DiffusionModel, ModelRef
from apdm_cli.diffusion.process import FlowMatching
from apdm_cli.extension.manager import attacks, build_plugin_manager, families
from apdm_cli.extension.protection import Inputs
from apdm_cli.protection.bench import Bench
from apdm_cli.protection.fitting import GIB, needs, on_some_card
from apdm_cli.protection.ingredients import Ingredients
from apdm_cli.randomness import Streams
from apdm_cli.subject import Subject
from apdm_cli.testing import synthetic_photos
from apdm_families.configurations import STABLE_DIFFUSION_1, stable_diffusion_xl
from apdm_protections.apdm import APDM

META, HALF = torch.device("meta"), torch.bfloat16
Shapes = tuple[dict[str, Any], Condition]


def stable_diffusion() -> Shapes:
    """The components of Stable Diffusion 1.5."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    files = STABLE_DIFFUSION_1
    parts = {
        "unet": UNet2DConditionModel.from_config(files["unet/config.json"]),
        "vae": AutoencoderKL.from_config(files["vae/config.json"]),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**files["text_encoder/config.json"])),
    }
    return parts, _condition({"text": (1, 77, 768)})


def sdxl() -> Shapes:
    """The components of Stable Diffusion XL, and what a prompt is for it."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    files = stable_diffusion_xl()
    kinds = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
    parts: dict[str, Any] = {
        "unet": UNet2DConditionModel.from_config(files["unet/config.json"]),
        "vae": AutoencoderKL.from_config(files["vae/config.json"]),
    }
    for name, kind in kinds.items():
        parts[name] = kind(CLIPTextConfig(**files[f"{name}/config.json"]))
    tensors = {"text": (1, 77, 2048), "pooled": (1, 1280), "sizes": (1, 6)}
    return parts, _condition(tensors)


def flux() -> Shapes:
    """Of FLUX.1 [dev]."""
    from diffusers import AutoencoderKL, FluxTransformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    large = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
    gated = {"feed_forward_proj": "gated-gelu", "vocab_size": 32128}
    files = stable_diffusion_xl()
    parts = {
        "transformer": FluxTransformer2DModel(guidance_embeds=True),  # the rest are its defaults
        "vae": AutoencoderKL.from_config({**files["vae/config.json"], "latent_channels": 16}),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**files["text_encoder/config.json"])),
        "text_encoder_2": T5EncoderModel(T5Config(**large, **gated)),
    }
    return parts, _condition({"sequence": (1, 512, 4096), "pooled": (1, 768)})


MODELS: Mapping[str, Callable[[], Shapes]] = {
    "stable-diffusion": stable_diffusion,
    "sdxl": sdxl,
    "flux": flux,
}


def _condition(shapes: Mapping[str, tuple[int, ...]]) -> Condition:
    return Condition({name: torch.zeros(shape, device="cpu") for name, shape in shapes.items()})


def needed(
    name: str, chosen: Mapping[str, Any], preset: str, *, low_memory: bool
) -> dict[tuple[str, ...], int]:
    """Bytes by what is added to the command line, as `fitting.needs`."""
    plugins = build_plugin_manager()
    family, known = families(plugins)[name], attacks(plugins)
    with META:
        components, condition = MODELS[name]()
    for part in components.values():
        part.requires_grad_(False)
    components[family.trained].requires_grad_(True)
    parts: Any = {**components, **dict.fromkeys(family.tokenizers)}
    process = FlowMatching()  # how latents are noised takes no memory
    ref = ModelRef(name, None, "")
    model = DiffusionModel(family, parts, process, ref, META, HALF)
    protection = APDM()
    config: Any = resolve(protection.Config, protection.preset(preset), chosen)
    subject = Subject("person", "person", "sks", synthetic_photos(8))
    none = LatentDistribution.exact(torch.empty(0, *model.latent_shape))
    inputs, ingredients = Inputs(config.prior_pictures), Ingredients(none, none, none)
    bench = Bench(model, subject, inputs, ingredients, Streams(0), known, low_memory)
    vars(bench)["_prompts"] = [condition, condition]  # encoded by nobody
    return needs(bench, protection, config, HALF)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the sentences for every model asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument("--attack", default="lora", help="that is simulated")
    parser.add_argument("--preset", default="durable")
    parser.add_argument("--memory", choices=["normal", "low"], default="low")
    asked = parser.parse_args(argv)
    for name in asked.models or MODELS:
        chosen, low = {"path": {"attack": asked.attack}}, asked.memory == "low"
        found = needed(name, chosen, asked.preset, low_memory=low)
        print(f"{name}, {asked.preset}, --memory {asked.memory}, attacker {asked.attack}")
        for sentence in on_some_card(found, HALF):
            print(f"  {sentence}")
        least = min(found.values()) / GIB
        print(f"  The least of them is {least:.2f} GiB", flush=True)


if __name__ == "__main__":
    main()
