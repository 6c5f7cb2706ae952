"""Draws pictures from artifacts with diffusers and peft alone. Run as a program by the tests.

usage: plain_diffusers.py JOBS.json LATENTS.safetensors; a job is {"kind", "path", "base", "prompt",
"out"}. Nothing of `apdm` can be imported in here.
"""

import importlib.abc
import json
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file


class NoApdm(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0].startswith("apdm"):
            raise ModuleNotFoundError(name)
        return None


def load(job):
    folder = Path(job["path"])
    pipe = DiffusionPipeline.from_pretrained(job["base"])
    if job["kind"] == "pipeline":
        for part in folder.iterdir():
            setattr(pipe, part.name, type(getattr(pipe, part.name)).from_pretrained(part))
    if job["kind"] == "lora":
        pipe.load_lora_weights(folder)
        if (folder / "tokens").is_dir():
            load_word(pipe, folder / "tokens")
        for name in ("text_encoder", "text_encoder_2"):
            if (folder / name).is_dir():
                PeftModel.from_pretrained(getattr(pipe, name), folder / name)
    if job["kind"] == "peft":
        PeftModel.from_pretrained(pipe.unet, folder)
    if job["kind"] == "embedding":
        load_word(pipe, folder)
    if job["kind"] == "custom-diffusion":
        pipe.unet.load_attn_procs(
            folder,
            weight_name="pytorch_custom_diffusion_weights.safetensors",
            _pipeline=pipe,
        )
        load_word(pipe, folder / "tokens")
    return pipe


def load_word(pipe, folder):
    """With two text encoders, as diffusers' guide to textual inversion does it for SDXL."""
    if not hasattr(pipe, "text_encoder_2"):
        pipe.load_textual_inversion(folder)
        return
    (file,) = folder.glob("*.safetensors")
    with safe_open(file, framework="pt") as opened:
        word = opened.metadata()["token"]
    vectors = load_file(file)
    for key, encoder, tokenizer in (
        ("clip_l", pipe.text_encoder, pipe.tokenizer),
        ("clip_g", pipe.text_encoder_2, pipe.tokenizer_2),
    ):
        pipe.load_textual_inversion(
            vectors[key], token=word, text_encoder=encoder, tokenizer=tokenizer
        )


def main(jobs, latents):
    sys.meta_path.insert(0, NoApdm())
    start = load_file(latents)["latents"]
    for job in json.loads(Path(jobs).read_text()):
        pipe = load(job)
        pipe.set_progress_bar_config(disable=True)
        if not job.get("own_scheduler"):
            pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
        pictures = pipe(
            [job["prompt"]] * len(start),
            num_inference_steps=4,
            guidance_scale=3.0,
            latents=start.clone(),
            output_type="pt",
        ).images
        scaled = (pictures.float().clamp(0, 1) * 255).round().to(torch.uint8)
        np.save(job["out"], scaled.permute(0, 2, 3, 1).numpy())
    assert not any(name.startswith("apdm") for name in sys.modules)


if __name__ == "__main__":
    main(*sys.argv[1:])
