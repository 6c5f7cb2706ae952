"""What a protection run would cost: measured on the real model, without writing anything."""

from __future__ import annotations

import time
from typing import Any

import torch

from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.diffusion.process import WHOLE_SCHEDULE
from apdm_cli.protection.build import assemble, pictures_needed, stand_ins
from apdm_cli.protection.machine import memory_hint, peak_memory
from apdm_cli.protection.prompts import distillation_captions
from apdm_cli.protection.request import ProtectRequest
from apdm_cli.protection.settings import ProtectionSettings
from apdm_cli.randomness import Streams

MEASURED_STEPS = 3
GIB = 2**30


def measure(request: ProtectRequest) -> dict[str, Any]:
    """Take three short outer steps with stand-in latents and extrapolate.

    Each has as many inner steps as there are to one protective gradient.

    Returns:
        a JSON-able table; `said` is what the user should know of the input, `lines` the estimate
        in words.
    """
    with memory_hint():
        model, subject, said = request.load()
        settings = request.settings
        part = min(settings.steps_inner, settings.protect_every)
        short = settings.model_copy(update={"steps_outer": MEASURED_STEPS, "steps_inner": part})
        latents = stand_ins(model, subject, short)
        low = request.low_memory
        bilevel = assemble(model, subject, short, Streams(request.seed), latents, low_memory=low)
        seconds = []
        started = time.monotonic()
        for _ in bilevel.iterate():
            seconds.append(time.monotonic() - started)
            started = time.monotonic()
        forward = _forward_seconds(model)
    # The first step also allocates; the median of three leaves it out.
    per_part = sorted(seconds)[MEASURED_STEPS // 2]
    parts = settings.steps_inner / part if part else 1
    training = per_part * parts * settings.steps_outer
    pictures = pictures_needed(subject, settings) + len(distillation_captions(subject, settings))
    drawing = forward * settings.sampler_steps * pictures
    weights = sum(weight.numel() * weight.element_size() for weight in bilevel.weights)
    copies = memory_copies(settings, low, request.device)
    peak = peak_memory(request.device)
    return {
        "name": request.run_name,
        "preset": request.preset,
        "model": vars(model.ref),
        "photos": len(subject.photos),
        "device": str(request.device),
        "dtype": str(request.dtype).removeprefix("torch."),
        "low_memory": low,
        "configuration": settings.model_dump(mode="json"),
        "outer_steps": settings.steps_outer,
        "inner_steps": settings.steps_inner,
        "pictures_to_draw": pictures,
        "measured_seconds": seconds,
        "estimated_seconds": training + drawing,
        "estimated_seconds_training": training,
        "estimated_seconds_drawing": drawing,
        "estimated_memory_bytes": round(weights * copies),
        "peak_memory_bytes": peak,
        "said": said,
        "lines": [
            f"{len(subject.photos)} photos, {settings.steps_outer} outer × {settings.steps_inner} "
            f"inner steps on {request.device} ({str(request.dtype).removeprefix('torch.')})",
            f"Time: about {_duration(training)} for the steps and at most {_duration(drawing)} to "
            f"draw {pictures} pictures first (those in the cache cost nothing)",
            f"Memory: {weights * copies / GIB:.2f} GiB for weights, gradients and optimizers, and "
            f"activations; {peak / GIB:.2f} GiB was the peak just now, all in all",
        ],
    }


def memory_copies(settings: ProtectionSettings, low_memory: bool, device: torch.device) -> float:
    """Copies of the trained network in float32 that must be in memory at once, activations aside.

    θ, φ, g and the outer AdamW's two moments; with an inner path also θ′, its gradient and two
    more moments. --memory low on the CPU leaves φ and the moments to files.
    """
    paths = 1 if settings.steps_inner == 0 else 2
    in_files = low_memory and device.type == "cpu"
    reference = 0.0 if in_files else 1.0
    wide = 0.0 if in_files else 2.0
    moments = 2 / 4 if settings.optimizer == "adamw8bit" else wide
    return reference + paths * (2 + moments)


@torch.no_grad()
def _forward_seconds(model: DiffusionModel) -> float:
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
