"""Stage: the trained networks as a diffusers folder, an extractor folder and sample photos.

What a lent machine brings home (`deliver`) becomes such a folder on another one:

    python -m pocket_training.assembly RESULTS --out candidate
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
from safetensors.torch import save_file
from torch import nn
from transformers import ViTModel

from pocket_training import autoencoder, denoiser, extractor, identifiers, renderer, text, tokenizer
from pocket_training.pictures import groups, named_seeds
from pocket_training.plan import DEMO_SUBJECT, HELD_OUT_FROM, PHOTOS_PER_SET, SUBJECTS, Plan
from pocket_training.workshop import DELIVERED, Workshop, write_json

PACKAGES = ("torch", "diffusers", "transformers", "tokenizers", "safetensors", "numpy", "pillow")
STAGES_NOTED = ("pictures", "captions", "autoencoder", "extractor", "latents", "text",
                "denoiser", "identifiers")  # fmt: skip


@dataclass(frozen=True)
class Networks:
    """The four networks of a pocket model, in float32."""

    vae: AutoencoderKL
    extractor: ViTModel
    unet: nn.Module
    text_encoder: nn.Module

    @classmethod
    def untrained(cls, plan: Plan) -> Networks:
        """Networks of the plan's sizes."""
        model = denoiser.build(plan)
        return cls(autoencoder.build(plan), extractor.build(plan), model.unet, model.encoder)

    @classmethod
    def trained(cls, shop: Workshop) -> Networks:
        """The furthest that this work folder has come; untrained where a stage has not begun."""
        found = cls.untrained(shop.plan)
        vae, vit, unet, encoder = found.vae, found.extractor, found.unet, found.text_encoder
        if shop.path(autoencoder.CHECKPOINT).exists():
            vae = autoencoder.trained(shop)
        if shop.path(extractor.CHECKPOINT).exists():
            vit = extractor.trained(shop)
        for stage in (identifiers, denoiser):
            if shop.path(stage.CHECKPOINT).exists():
                model = stage.trained(shop)
                unet, encoder = model.unet, model.encoder
                break
        return cls(vae, vit, unet, encoder)

    def by_name(self) -> dict[str, nn.Module]:
        """The networks by the names of their fields."""
        return dict(vars(self))


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below `folder` by its path, `training.json` left out."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "training.json")
    return {p.relative_to(folder).as_posix(): file_digest(p) for p in files}


def record(shop: Workshop) -> dict[str, Any]:
    """What `training.json` says of this training, digests left out."""
    return {
        "seed": shop.plan.seed,
        "plan": shop.plan.as_json(),
        "workers": shop.workers,
        "start": None if shop.start is None else file_digest(shop.start / DELIVERED),
        "device": torch.cuda.get_device_name() if shop.device == "cuda" else shop.device,
        "stages": {stage: shop.result(stage) for stage in STAGES_NOTED},
        "versions": {name: version(name) for name in PACKAGES},
    }


def deliver(shop: Workshop, folder: Path) -> None:
    """Everything worth keeping so far as a few small files, for a machine that is lent.

    `weights.safetensors` (all networks, fp16, each key with its network's name before it),
    `training.json` and the contact sheets.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{name}.{key}": tensor.half().contiguous()
        for name, network in Networks.trained(shop).by_name().items()
        for key, tensor in network.state_dict().items()
        if tensor.is_floating_point()
    }
    save_file(tensors, folder / DELIVERED)
    write_json(record(shop), folder / "training.json")
    for sheet in ("autoencoder.png", "denoiser.png", "identifiers.png"):
        if shop.path(sheet).exists():
            shutil.copy(shop.path(sheet), folder / sheet)


def write_model(out: Path, plan: Plan, networks: Networks, training: dict[str, Any]) -> None:
    """Writes the whole model to `out`, which is replaced only when everything is there."""
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    scaling_factor = training["stages"]["latents"]["scaling_factor"]
    _write_pipeline(partial / "pipeline", plan, networks, scaling_factor)
    networks.extractor.half().save_pretrained(partial / "extractor")
    _widen_when_loaded(partial / "extractor")
    _write_subjects(partial / "subjects")
    drawn = groups(plan)["named"].names[: plan.names_drawn]
    write_json(named_seeds(drawn), partial / "names.json")
    write_json({**training, "digests": digests(partial)}, partial / "training.json")
    if out.exists():
        old = out.with_name(out.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        out.rename(old)
        partial.rename(out)
        shutil.rmtree(old)
    else:
        partial.rename(out)


def _write_pipeline(folder: Path, plan: Plan, networks: Networks, scaling_factor: float) -> None:
    networks.vae.register_to_config(scaling_factor=scaling_factor)
    names = list(text.names_of(plan))
    StableDiffusionPipeline(
        vae=networks.vae,
        text_encoder=networks.text_encoder,
        tokenizer=tokenizer.loaded(names),
        unet=networks.unet,
        scheduler=DDIMScheduler(**denoiser.SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to(dtype=torch.float16).save_pretrained(folder, safe_serialization=True)
    _widen_when_loaded(folder / "text_encoder")
    tokenizer.save(names, folder / "tokenizer")  # the pipeline's own has no added tokens


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
    """The stage: writes this work folder's model to `out`."""
    write_model(out, shop.plan, Networks.trained(shop), record(shop))
    found = digests(out)
    size = sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
    weights = {k: v for k, v in found.items() if k.endswith(".safetensors")}
    return {"bytes": size, "files": len(found), "digests": weights}


def main(argv: Sequence[str] | None = None) -> None:
    """Makes a model of what `deliver` wrote; `argv` without the program's name."""
    parser = argparse.ArgumentParser(prog="python -m pocket_training.assembly",
                                     description=main.__doc__)  # fmt: skip
    parser.add_argument("results", type=Path, help="a folder with weights.safetensors")
    parser.add_argument("--out", type=Path, required=True, help="where the model is written")
    options = parser.parse_args(argv)
    training = json.loads((options.results / "training.json").read_text("utf-8"))
    plan = Plan.from_json(training["plan"])
    networks = Networks.untrained(plan)
    shop = Workshop(options.results, plan, 1, "cpu", start=options.results)
    for name, network in networks.by_name().items():
        shop.warm(name, network)
    write_model(options.out, plan, networks, training)
    print(json.dumps(digests(options.out), indent=1))


if __name__ == "__main__":
    main()
