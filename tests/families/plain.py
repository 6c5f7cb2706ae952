"""What plain diffusers draws from what the commands wrote, beside what the house draws."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
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

Drawn = dict[str, tuple[Tensor, Tensor, Tensor]]


def drawn_by_both(desks: Mapping[Desk, int], folder: Path, prompt: str) -> dict[str, Drawn]:
    """Pictures in [0, 1] of the protected model and of every attack on it.

    One process draws for all desks: it takes seconds to import diffusers.

    Args:
        desks: every desk → how many tokens its pipeline reads.

    Returns:
        desk's name → name → (by plain diffusers in a process that cannot import `apdm`, by the
        house, by the house with the model below).
    """
    jobs: list[dict[str, Any]] = []
    ours = {desk.name: _ours(desk, length, folder, prompt, jobs) for desk, length in desks.items()}
    (folder / "jobs.json").write_text(json.dumps(jobs))
    script = Path(__file__).with_name("plain_flow.py")
    result = subprocess.run(
        [sys.executable, "-P", str(script), "jobs.json"],
        capture_output=True,
        text=True,
        cwd=folder,
        env={"PATH": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    assert result.returncode == 0, result.stderr[-3000:]
    drawn: dict[str, Drawn] = {name: {} for name in ours}
    for job in jobs:
        plain = load_file(job["out"])["pictures"]
        drawn[job["desk"]][job["name"]] = (plain, *ours[job["desk"]][job["name"]])
    return drawn


def _ours(
    desk: Desk, length: int, folder: Path, prompt: str, jobs: list[dict[str, Any]]
) -> dict[str, tuple[Tensor, Tensor]]:
    """What the house draws; `jobs` grows by what plain diffusers is to draw."""
    run, latents = desk.runs / desk.name, folder / f"{desk.name}-latents.safetensors"
    original = load_model(str(desk.model), torch.device("cpu"))
    protected = load_model(str(run / "model"), torch.device("cpu"))
    save_file({"latents": initial_latents(original, [0, 1])}, latents)
    common: dict[str, Any] = {"base": str(run / "model"), "prompt": prompt, "length": length}
    common |= {"steps": SETTINGS.steps, "guidance": SETTINGS.guidance, "desk": desk.name}
    common |= {"side": original.resolution, "latents": str(latents)}

    def job(name: str, kind: str, path: str = "") -> None:
        out = str(folder / f"{desk.name}-{name}.safetensors")
        jobs.append({**common, "name": name, "kind": kind, "path": path, "out": out})

    job("protected", "base")
    ours = {"protected": (_draw(protected, prompt), _draw(original, prompt))}
    for manifest in sorted(run.glob("attacks/**/manifest.json")):
        cell = json.loads(manifest.read_text())
        if cell["arm"] != "protected":
            continue
        name, kind, path = cell["attack"], cell["artifact"]["kind"], manifest.parent / "artifact"
        job(name, kind, str(path))
        attacked = LOADERS[kind](protected, path)
        ours[name] = (_draw(attacked, prompt), ours["protected"][0])
    return ours


def _draw(model: DiffusionModel, prompt: str) -> Tensor:
    return model.decode(torch.cat(list(sample_latents(model, [prompt] * 2, [0, 1], SETTINGS))))
