"""A strip of pictures that shows how a protection proceeds. Never made from the photos."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from apdm_cli.diffusion.model import DiffusionModel
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
    rows = [
        np.concatenate(list(row.numpy()), axis=1) for row in pictures.split(PICTURES_PER_PROMPT)
    ]
    content = io.BytesIO()
    Image.fromarray(np.concatenate(rows, axis=0)).save(content, format="PNG")
    with writing_to(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(file, content.getvalue())
