"""Draws pictures with diffusers alone. Run as a program by the tests.

usage: plain_flow.py JOBS.json; a job is {"base", "kind", "path", "prompt", "steps", "guidance",
"length", "side", "latents", "out"}, where kind is "base", "pipeline" or "lora". Nothing of `apdm`
can be imported in here.
"""

import importlib.abc
import inspect
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


def packed(pipe, noise):
    """As the pipeline takes it: FLUX.2 packs it itself."""
    pack = getattr(pipe, "_pack_latents", None)
    if pack is None or len(inspect.signature(pack).parameters) == 1:
        return noise.clone()
    return pack(noise.clone(), *noise.shape)


def guidance(pipe, scale, count):
    """Qwen-Image's pipeline calls it otherwise, and is told what to go away from."""
    if type(pipe).__name__ == "QwenImagePipeline":
        return {"true_cfg_scale": scale, "negative_prompt": [""] * count}
    return {"guidance_scale": scale}


def main(jobs):
    sys.meta_path.insert(0, NoApdm())
    for job in json.loads(Path(jobs).read_text()):
        pipe, noise = load(job), load_file(job["latents"])["latents"]
        pipe.set_progress_bar_config(disable=True)
        pictures = pipe(
            prompt=[job["prompt"]] * len(noise),
            height=job["side"],
            width=job["side"],
            num_inference_steps=job["steps"],
            max_sequence_length=job["length"],
            latents=packed(pipe, noise),
            output_type="pt",
            **guidance(pipe, job["guidance"], len(noise)),
        ).images
        save_file({"pictures": pictures.float().clamp(0, 1).contiguous()}, job["out"])
    assert not any(name.startswith("apdm") for name in sys.modules)


if __name__ == "__main__":
    main(*sys.argv[1:])
