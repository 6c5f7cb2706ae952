"""What a protection run would cost: measured on the real model, without writing anything."""

from __future__ import annotations

import time
from itertools import islice
from typing import Any

import torch

from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.process import WHOLE_SCHEDULE
from apdm_cli.extension.protection import low_rank
from apdm_cli.protection.bench import Bench, stand_ins
from apdm_cli.protection.machine import memory_hint, peak_memory
from apdm_cli.protection.request import ProtectRequest
from apdm_cli.protection.several import (
    in_words_of_training,
    ingredients_of,
    inputs_of,
    pictures_to_draw,
)
from apdm_cli.randomness import Streams

MEASURED_STEPS = 3
RECORDED_AFTER = 3  # steps of every shape, where steps are recorded at all (`recording.LAUNCHED`)
GIB = 2**30


def measure(request: ProtectRequest) -> dict[str, Any]:
    """Take three short steps with stand-in latents, not compiled, and extrapolate.

    On a card that records steps some come before these three.

    Returns:
        a JSON-able table; `said` is what the user should know of the input, `lines` the estimate
        in words.
    """
    protection, settings, low = request.protection, request.settings, request.low_memory
    with memory_hint():
        model, subjects, said = request.load()
        everybody = [*subjects, *request.earlier]
        inputs = inputs_of(protection, everybody, settings)
        trained = in_words_of_training(everybody, settings.prompt_style)
        ingredients = ingredients_of(
            model, everybody, inputs, lambda subject, asked: stand_ins(model, subject, asked)
        )
        seats = zip(trained, inputs, ingredients, strict=True)
        bench = Bench(
            model,
            *next(seats),
            Streams(request.seed),
            request.attacks,
            low,
            adapter=low_rank(settings),
        )
        for number, further in enumerate(seats, start=1):
            bench.seat(*further, earlier=number >= len(subjects))
        short, parts = protection.shortened(settings)
        seconds = []
        started = time.monotonic()
        ahead = RECORDED_AFTER if model.recorder is not None else 0
        for _ in islice(protection.steps(bench, short), ahead + MEASURED_STEPS):
            seconds.append(time.monotonic() - started)
            started = time.monotonic()
        forward = forward_seconds(model)
    seconds = seconds[-MEASURED_STEPS:]
    # The first step also allocates; the median of three leaves it out.
    per_part = sorted(seconds)[len(seconds) // 2]
    training = per_part * parts * bench.total
    pictures = pictures_to_draw(everybody, inputs)
    photos = sum(len(subject.photos) for subject in subjects)
    whose = f" of {len(subjects)} subjects" if len(subjects) > 1 else ""
    drawing = forward * settings.sampler_steps * pictures
    weights = 4 * sum(weight.numel() for weight in model.trained.parameters())  # in float32
    copies = protection.memory_copies(bench, settings)
    peak = peak_memory(request.device)
    return {
        "name": request.run_name,
        "method": protection.name,
        "preset": request.preset,
        "model": vars(model.ref),
        "photos": photos,
        "device": str(request.device),
        "dtype": str(request.dtype).removeprefix("torch."),
        "low_memory": low,
        "configuration": settings.model_dump(mode="json"),
        "outer_steps": bench.total,
        "pictures_to_draw": pictures,
        "measured_seconds": seconds,
        "estimated_seconds": training + drawing,
        "estimated_seconds_training": training,
        "estimated_seconds_drawing": drawing,
        "estimated_memory_bytes": round(weights * copies),
        "peak_memory_bytes": peak,
        "said": said,
        "lines": [
            f"{photos} photos{whose}, {bench.total} steps on {request.device} "
            f"({str(request.dtype).removeprefix('torch.')})",
            f"Time: about {_duration(training)} for the steps and at most {_duration(drawing)} to "
            f"draw {pictures} pictures first (those in the cache cost nothing)",
            f"Memory: {weights * copies / GIB:.2f} GiB for weights, gradients and optimizers, and "
            f"activations; {peak / GIB:.2f} GiB was the peak just now, all in all",
        ],
    }


@torch.no_grad()
def forward_seconds(model: DiffusionModel) -> float:
    """Time of one sampler step for one picture: two forwards, because of guidance."""
    generator = Streams(0).generator("protect/plan")
    latents = torch.randn(2, *model.latent_shape, generator=generator).to(model.device)
    timesteps = model.process.draw_timesteps(2, WHOLE_SCHEDULE, generator).to(model.device)
    condition = model.encode_text(["", ""])
    started = time.monotonic()
    # A value that the CPU reads, because a GPU answers before it is done.
    model.denoiser.predict(latents, timesteps, condition).sum().item()
    return time.monotonic() - started


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
