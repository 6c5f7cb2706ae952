"""Draws pictures with diffusers alone. Run as a program by the tests.

usage: plain_flow.py JOBS.json LATENTS.safetensors; a job is {"base", "kind", "path", "prompt",
"steps", "guidance", "length", "out"}, where kind is "base", "pipeline" or "lora". Nothing of `apdm`
can be imported in here.
"""

import importlib.abc
import json
import sys
from pathlib import Path

from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file


class NoApdm(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0].startswith("apdm"):
            raise ModuleNotFoundError(name)
        return None


def load(job):
    index = json.loads(Path(job["base"], "model_index.json").read_text())
    # diffusers wants to be told that it is to go without T5.
    absent = {name: None for name, value in index.items() if value == [None, None]}
    pipe = DiffusionPipeline.from_pretrained(job["base"], use_safetensors=True, **absent)
    if job["kind"] == "pipeline":
        kind = type(pipe.transformer)
        pipe.transformer = kind.from_pretrained(f"{job['path']}/transformer", use_safetensors=True)
    if job["kind"] == "lora":
        pipe.load_lora_weights(job["path"])
    return pipe


def main(jobs, latents):
    sys.meta_path.insert(0, NoApdm())
    start = load_file(latents)["latents"]
    for job in json.loads(Path(jobs).read_text()):
        pipe = load(job)
        pipe.set_progress_bar_config(disable=True)
        noise = start.clone()
        if hasattr(pipe, "_pack_latents"):
            noise = pipe._pack_latents(noise, *noise.shape)
        side = start.shape[-1] * pipe.vae_scale_factor
        pictures = pipe(
            [job["prompt"]] * len(start),
            height=side,
            width=side,
            num_inference_steps=job["steps"],
            guidance_scale=job["guidance"],
            max_sequence_length=job["length"],
            latents=noise,
            output_type="pt",
        ).images
        save_file({"pictures": pictures.float().clamp(0, 1).contiguous()}, job["out"])
    assert not any(name.startswith("apdm") for name in sys.modules)


if __name__ == "__main__":
    main(*sys.argv[1:])
