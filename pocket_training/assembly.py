"""Stage: the trained parts as a diffusers folder, an extractor folder and sample photos."""

from __future__ import annotations

import hashlib
import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
from safetensors.torch import save_file
from torch import nn
from transformers import AutoTokenizer

from pocket_training import (
    autoencoder,
    denoiser,
    extractor,
    identifiers,
    renderer,
    text,
    tokenizer,
)
from pocket_training.names import named_seeds
from pocket_training.pictures import groups
from pocket_training.plan import HELD_OUT_FROM, PHOTOS_PER_SET, SUBJECTS, Plan
from pocket_training.workshop import Workshop, write_json

PACKAGES = ("torch", "diffusers", "transformers", "tokenizers", "safetensors", "numpy", "pillow")
STAGES_NOTED = ("pictures", "captions", "autoencoder", "extractor", "latents", "text", "denoiser",
                "identifiers")  # fmt: skip


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below `folder` by its path, `training.json` left out."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "training.json")
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files
    }


def parts(shop: Workshop) -> dict[str, nn.Module]:
    """The networks that are trained so far, by their names in a pipeline, and the extractor."""
    found: dict[str, nn.Module] = {}
    if shop.path(autoencoder.CHECKPOINT).exists():
        found["vae"] = autoencoder.trained(shop)
    if shop.path(extractor.CHECKPOINT).exists():
        found["extractor"] = extractor.trained(shop)
    for stage in (identifiers, denoiser):
        if shop.path(stage.CHECKPOINT).exists():
            model = stage.trained(shop)
            return {**found, "unet": model.unet, "text_encoder": model.encoder}
    return found


def record(shop: Workshop) -> dict[str, Any]:
    """What `training.json` says of this training, digests left out."""
    return {
        "seed": shop.plan.seed,
        "plan": shop.plan.as_json(),
        "workers": shop.workers,
        "device": shop.device,
        "card": torch.cuda.get_device_name() if shop.device == "cuda" else None,
        "stages": {stage: shop.result(stage) for stage in STAGES_NOTED},
        "versions": {name: version(name) for name in PACKAGES},
    }


def deliver(shop: Workshop, folder: Path) -> None:
    """Everything worth keeping so far as a few small files, for a machine that is lent.

    `weights.safetensors` (all networks, fp16, each key with its network's name before it),
    `training.json` and the contact sheets; `candidate.py` makes a model of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{name}.{key}": tensor.half().contiguous()
        for name, part in parts(shop).items()
        for key, tensor in part.state_dict().items()
        if tensor.is_floating_point()
    }
    save_file(tensors, folder / "weights.safetensors")
    write_json(record(shop), folder / "training.json")
    for sheet in ("autoencoder.png", "denoiser.png", "identifiers.png"):
        if shop.path(sheet).exists():
            shutil.copy(shop.path(sheet), folder / sheet)


def write_pipeline(
    folder: Path, plan: Plan, vae: AutoencoderKL, model: denoiser.Denoiser, scaling_factor: float
) -> None:
    """Writes the networks as a folder that `StableDiffusionPipeline` opens."""
    vae.register_to_config(scaling_factor=scaling_factor)
    tokenizer.save(list(text.names_of(plan)), folder / "tokenizer")
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=model.encoder,
        tokenizer=AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True),
        unet=model.unet,
        scheduler=DDIMScheduler(**denoiser.SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to(dtype=torch.float16).save_pretrained(folder, safe_serialization=True)
    _widen_when_loaded(folder / "text_encoder")


def _finished(shop: Workshop) -> denoiser.Denoiser:
    """The last stage's networks; untrained ones for an early look at a folder of this shape."""
    if shop.path(identifiers.CHECKPOINT).exists():
        return identifiers.trained(shop)
    return denoiser.build(shop.plan).eval()


def _widen_when_loaded(folder: Path) -> None:
    """Weights are stored in fp16; transformers would keep them so where diffusers widens them."""
    path = folder / "config.json"
    config = json.loads(path.read_text("utf-8"))
    config["dtype"] = "float32"
    write_json(config, path)


def _write_subjects(folder: Path) -> None:
    for noun, count in SUBJECTS.items():
        for index in range(count):
            someone = renderer.identity(noun, HELD_OUT_FROM + index)
            for part, first in (("seen", 0), ("unseen", PHOTOS_PER_SET)):
                place = folder / f"{noun}-{index + 1}" / part
                place.mkdir(parents=True)
                for number in range(first, first + PHOTOS_PER_SET):
                    renderer.photo(someone, number).save(place / f"{number - first + 1}.png")


def write(shop: Workshop, out: Path) -> dict[str, Any]:
    """Writes the whole model to `out`, which is replaced only when everything is there."""
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    noted = shop.result("latents")
    assert noted is not None
    write_pipeline(partial / "pipeline", shop.plan, autoencoder.trained(shop), _finished(shop),
                   noted["scaling_factor"])  # fmt: skip
    extractor.trained(shop).half().save_pretrained(partial / "extractor")
    _widen_when_loaded(partial / "extractor")
    _write_subjects(partial / "subjects")
    drawn = groups(shop.plan)["named"].names[: shop.plan.names_drawn]
    write_json(named_seeds(drawn), partial / "names.json")
    found = digests(partial)
    size = sum(p.stat().st_size for p in partial.rglob("*") if p.is_file())
    write_json({**record(shop), "digests": found}, partial / "training.json")
    if out.exists():
        old = out.with_name(out.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        out.rename(old)
        partial.rename(out)
        shutil.rmtree(old)
    else:
        partial.rename(out)
    weights = {k: v for k, v in found.items() if k.endswith(".safetensors")}
    return {"bytes": size, "files": len(found), "digests": weights}
