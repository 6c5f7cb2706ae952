"""What plain diffusers draws from what the commands wrote, beside what the house draws."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from apdm_cli.diffusion.artifacts import LOADERS
from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.sampling import SamplerSettings, initial_latents, sample_latents
from apdm_cli.extension.family import load_model
from tests.families.desk import Desk

SETTINGS = SamplerSettings(sampler="euler", steps=3, guidance=2.5)


def drawn_by_both(
    desk: Desk, folder: Path, prompt: str, length: int
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Pictures in [0, 1] of the protected model and of every attack on it.

    Returns:
        name → (by plain diffusers in a process that cannot import `apdm`, by the house, by the
        house with the model below).
    """
    run = desk.runs / desk.name
    original = load_model(str(desk.model), torch.device("cpu"))
    protected = load_model(str(run / "model"), torch.device("cpu"))
    save_file({"latents": initial_latents(original, [0, 1])}, folder / "latents.safetensors")
    common: dict[str, Any] = {"base": str(run / "model"), "prompt": prompt, "length": length}
    common |= {"steps": SETTINGS.steps, "guidance": SETTINGS.guidance}
    jobs = [{**common, "name": "protected", "kind": "base", "path": ""}]
    ours = {"protected": (_draw(protected, prompt), _draw(original, prompt))}
    for manifest in sorted(run.glob("attacks/**/manifest.json")):
        cell = json.loads(manifest.read_text())
        if cell["arm"] != "protected":
            continue
        name, kind, path = cell["attack"], cell["artifact"]["kind"], manifest.parent / "artifact"
        jobs.append({**common, "name": name, "kind": kind, "path": str(path)})
        attacked = LOADERS[kind](protected, path)
        ours[name] = (_draw(attacked, prompt), ours["protected"][0])
    for job in jobs:
        job["out"] = str(folder / f"{job['name']}.safetensors")
    (folder / "jobs.json").write_text(json.dumps(jobs))
    script = Path(__file__).with_name("plain_flow.py")
    result = subprocess.run(
        [sys.executable, "-P", str(script), "jobs.json", "latents.safetensors"],
        capture_output=True,
        text=True,
        cwd=folder,
        env={"PATH": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    assert result.returncode == 0, result.stderr[-3000:]
    plain = {job["name"]: load_file(job["out"])["pictures"] for job in jobs}
    return {name: (plain[name], *pair) for name, pair in ours.items()}


def _draw(model: DiffusionModel, prompt: str) -> Tensor:
    return model.decode(torch.cat(list(sample_latents(model, [prompt] * 2, [0, 1], SETTINGS))))
