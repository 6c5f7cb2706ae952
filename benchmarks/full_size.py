"""Does `apdm protect` fit a machine without a GPU? Stable Diffusion's real size, random weights.

    python -m benchmarks.full_size --folder /tmp/full --photos PHOTOS --class dog

Writes a pipeline with the configuration of Stable Diffusion 1.5 (or, with --model 2.1, of 2.1 with
v-prediction) and random weights below --folder, about 4 GB in float32, runs `apdm protect` on it in
a process of its own, opens the result in plain diffusers, and prints seconds and peak memory.
Numbers mean time and memory only: the weights are random.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from apdm_families.configurations import (
    STABLE_DIFFUSION_1,
    stable_diffusion_2_1,
    write_configuration,
)

GIB = 2**30
WATCHED = ("VmRSS", "RssAnon", "VmSwap")  # kB in /proc/PID/status

# Runs without apdm: what a user of the protected model does.
OPEN_IN_DIFFUSERS = """
import sys, torch
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1], local_files_only=True)
side = pipe.unet.config.sample_size * pipe.vae_scale_factor
pipe.set_progress_bar_config(disable=True)
picture = pipe("a photo of dog", num_inference_steps=1, height=side, width=side).images[0]
assert "apdm_cli" not in sys.modules and picture.size == (side, side)
print(type(pipe.unet).__name__, sum(p.numel() for p in pipe.unet.parameters()),
      pipe.scheduler.config.prediction_type, picture.size)
"""


def main() -> None:
    """Parse, write the pipeline, run, measure, print."""
    options = _options()
    options.folder.mkdir(parents=True, exist_ok=True)
    model = options.folder / f"sd-{options.model}-random"
    if not (model / "model_index.json").is_file():
        started = time.monotonic()
        write_pipeline(model, options.model, options.sample_size)
        print(f"wrote {model} in {time.monotonic() - started:.0f} s", file=sys.stderr)
    runs = options.folder / "runs"
    name = f"sd-{options.model}-{options.dtype}-{options.memory}"
    shutil.rmtree(runs / name, ignore_errors=True)
    settings = {
        "steps_outer": options.outer,
        "steps_inner": options.inner,
        "prior_pictures": options.pictures,
        "sampler_steps": 2,
    }
    command = [
        *(sys.executable, "-m", "apdm_cli.cli.main", "protect", *map(str, options.photos)),
        *("--class", options.class_noun, "--model", str(model), "--out", str(runs)),
        *("--name", name, "--device", "cpu", "--dtype", options.dtype),
        *("--memory", options.memory, "--preset", "paper", "--json"),
        *(part for key, value in settings.items() for part in ("--set", f"{key}={value}")),
    ]
    seconds, peaks, output = watch(command)
    opened = subprocess.run(
        [sys.executable, "-c", OPEN_IN_DIFFUSERS, str(runs / name / "model")],
        check=True,
        capture_output=True,
        text=True,
    )
    manifest = json.loads(output)
    result = {
        "model": options.model,
        "pixels": options.sample_size * 8,
        "dtype": options.dtype,
        "memory": options.memory,
        "steps": f"{options.outer} outer x {options.inner} inner",
        "class_pictures": options.pictures,
        "seconds_of_the_process": round(seconds),
        "seconds_of_the_run": manifest["duration_seconds"],
        **{f"peak_{key}_gib": round(value / GIB, 2) for key, value in peaks.items()},
        "summary": manifest["summary"],
        "in_plain_diffusers": opened.stdout.strip(),
    }
    print(json.dumps(result, indent=2))


def write_pipeline(folder: Path, version: str, sample_size: int) -> None:
    """Write a whole pipeline of that version with random weights, one part at a time.

    Args:
        sample_size: side of the latents; pictures have 8 times as many pixels.
    """
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    files = copy.deepcopy(STABLE_DIFFUSION_1) if version == "1.5" else stable_diffusion_2_1()
    files["unet/config.json"]["sample_size"] = sample_size
    torch.manual_seed(0)  # the weights of a benchmark, not a draw of the method
    for part, kind in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
        kind.from_config(files[f"{part}/config.json"]).save_pretrained(folder / part)
    text = CLIPTextModel(CLIPTextConfig(**files["text_encoder/config.json"]))
    text.save_pretrained(folder / "text_encoder")
    # Last, so that a folder with an index is whole; the libraries' own spelling of a
    # configuration stays where they wrote one.
    own = ("unet/config.json", "vae/config.json", "text_encoder/config.json")
    write_configuration(folder, {name: files[name] for name in files if name not in own})


def watch(command: list[str]) -> tuple[float, dict[str, int], str]:
    """Run `command`; returns its seconds, peaks in bytes and what it printed.

    `RssAnon` is memory that only swap space could free; `VmRSS` also counts pages of mapped
    files, which the system may drop or write out at any time.
    """
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peaks = dict.fromkeys(WATCHED, 0)
    while process.poll() is None:
        for key, value in _status(process.pid).items():
            peaks[key] = max(peaks[key], value)
        time.sleep(0.2)
    output = process.stdout.read() if process.stdout else ""
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)}\nended with {process.returncode}")
    return time.monotonic() - started, peaks, output


def _status(process: int) -> dict[str, int]:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:  # it has just ended, or the system has no /proc
        return {}
    pairs = (line.split(":") for line in lines)
    return {key: int(value.split()[0]) * 1024 for key, value in pairs if key in WATCHED}


def _options() -> Any:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="outside the repository")
    parser.add_argument("--photos", type=Path, nargs="+", required=True)
    parser.add_argument("--class", dest="class_noun", default="dog")
    parser.add_argument("--model", choices=["1.5", "2.1"], default="1.5")
    parser.add_argument("--sample-size", type=int, default=32, help="pixels / 8")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--memory", choices=["normal", "low"], default="low")
    parser.add_argument("--outer", type=int, default=1)
    parser.add_argument("--inner", type=int, default=2)
    parser.add_argument("--pictures", type=int, default=5, help="class pictures to draw")
    return parser.parse_args()


if __name__ == "__main__":
    main()
