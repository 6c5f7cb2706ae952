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
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from peft import PeftModel
from safetensors.torch import load_file
from transformers import CLIPTextModel


class NoApdm(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0].startswith("apdm"):
            raise ModuleNotFoundError(name)
        return None


def load(job):
    parts = {}
    folder = job["path"]
    if job["kind"] == "pipeline":
        parts["unet"] = UNet2DConditionModel.from_pretrained(f"{folder}/unet")
    if job.get("text_encoder"):
        parts["text_encoder"] = CLIPTextModel.from_pretrained(f"{folder}/text_encoder")
    pipe = StableDiffusionPipeline.from_pretrained(
        job["base"], safety_checker=None, requires_safety_checker=False, **parts
    )
    if job["kind"] == "lora":
        pipe.load_lora_weights(folder)
    if job["kind"] == "peft":
        PeftModel.from_pretrained(pipe.unet, folder)
    if job["kind"] == "embedding":
        pipe.load_textual_inversion(folder)
    if job["kind"] == "custom-diffusion":
        pipe.unet.load_attn_procs(
            folder,
            weight_name="pytorch_custom_diffusion_weights.safetensors",
            _pipeline=pipe,
        )
        pipe.load_textual_inversion(f"{folder}/tokens")
    return pipe


def main(jobs, latents):
    sys.meta_path.insert(0, NoApdm())
    start = load_file(latents)["latents"]
    for job in json.loads(Path(jobs).read_text()):
        pipe = load(job)
        pipe.set_progress_bar_config(disable=True)
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
