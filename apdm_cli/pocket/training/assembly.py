"""Stage: the trained parts as a diffusers folder, an extractor folder and sample photos."""

from __future__ import annotations

import hashlib
import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from transformers import AutoTokenizer

from apdm_cli.pocket import renderer
from apdm_cli.pocket.training import (
    autoencoder,
    denoiser,
    extractor,
    identifiers,
    text,
    tokenizer,
)
from apdm_cli.pocket.training.names import named_seeds
from apdm_cli.pocket.training.pictures import groups
from apdm_cli.pocket.training.plan import DEMO_SUBJECT, HELD_OUT_FROM, PHOTOS_PER_SET, SUBJECTS
from apdm_cli.pocket.training.workshop import Workshop, write_json

PACKAGES = ("torch", "diffusers", "transformers", "tokenizers", "safetensors", "numpy", "pillow")
STAGES_NOTED = ("pictures", "autoencoder", "extractor", "latents", "text", "denoiser",
                "identifiers")  # fmt: skip


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below `folder` by its path, `training.json` left out."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "training.json")
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files
    }


def _write_pipeline(shop: Workshop, folder: Path) -> None:
    noted = shop.result("latents")
    assert noted is not None
    vae = autoencoder.trained(shop)
    vae.register_to_config(scaling_factor=noted["scaling_factor"])
    if shop.path(identifiers.CHECKPOINT).exists():
        model = identifiers.trained(shop)
    else:  # an early look at a folder of the right shape, before the last stage has begun
        model = denoiser.build(shop.plan).eval()
    tokenizer.save(list(text.names_of(shop.plan)), folder / "tokenizer")
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


def _widen_when_loaded(folder: Path) -> None:
    """Weights are stored in fp16; transformers would keep them so where diffusers widens them."""
    path = folder / "config.json"
    config = json.loads(path.read_text("utf-8"))
    config["dtype"] = "float32"
    write_json(config, path)


def _write_subjects(folder: Path) -> None:
    seeds = {
        f"{noun}-{index + 1}": HELD_OUT_FROM + index
        for noun, count in SUBJECTS.items()
        for index in range(count)
    }
    for name, seed in [*seeds.items(), DEMO_SUBJECT]:
        someone = renderer.identity(name.rpartition("-")[0], seed)
        for part, first in (("seen", 0), ("unseen", PHOTOS_PER_SET)):
            place = folder / name / part
            place.mkdir(parents=True)
            for number in range(first, first + PHOTOS_PER_SET):
                renderer.photo(someone, number).save(place / f"{number - first + 1}.png")


def write(shop: Workshop, out: Path) -> dict[str, Any]:
    """Writes the whole model to `out`, which is replaced only when everything is there."""
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _write_pipeline(shop, partial / "pipeline")
    extractor.trained(shop).half().save_pretrained(partial / "extractor")
    _widen_when_loaded(partial / "extractor")
    _write_subjects(partial / "subjects")
    drawn = groups(shop.plan)["named"].names[: shop.plan.names_drawn]
    write_json(named_seeds(drawn), partial / "names.json")
    found = digests(partial)
    size = sum(p.stat().st_size for p in partial.rglob("*") if p.is_file())
    record = {
        "seed": shop.plan.seed,
        "plan": shop.plan.as_json(),
        "workers": shop.workers,
        "device": shop.device,
        "stages": {stage: shop.result(stage) for stage in STAGES_NOTED},
        "versions": {name: version(name) for name in PACKAGES},
        "digests": found,
    }
    write_json(record, partial / "training.json")
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
