"""A strip of pictures that shows how a protection proceeds. Never made from the photos."""

from __future__ import annotations

from pathlib import Path

import torch

from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.pictures import png_bytes
from apdm_cli.diffusion.sampling import SamplerSettings, sample
from apdm_cli.runs.atomic import write_bytes_atomic, writing_to
from apdm_cli.subject import Subject

PICTURES_PER_PROMPT = 4


def draw_preview(
    model: DiffusionModel, subject: Subject, file: Path, sampler: SamplerSettings
) -> None:
    """Write one PNG: class prompt above, personal prompt below, the same seeds every time."""
    prompts = [
        prompt
        for prompt in (subject.class_prompt, subject.personal_prompt)
        for _ in range(PICTURES_PER_PROMPT)
    ]
    seeds = list(range(PICTURES_PER_PROMPT)) * 2
    pictures = torch.cat(list(sample(model, prompts, seeds, sampler)))
    rows = [torch.cat(list(row), dim=1) for row in pictures.split(PICTURES_PER_PROMPT)]
    with writing_to(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(file, png_bytes(torch.cat(rows)))
