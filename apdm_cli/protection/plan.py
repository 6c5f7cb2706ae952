"""What a protection run would cost: measured on the real model, without writing anything."""

from __future__ import annotations

import time
from typing import Any

from apdm_cli.protection.build import assemble, stand_ins
from apdm_cli.protection.request import ProtectRequest
from apdm_cli.protection.run import peak_memory
from apdm_cli.randomness import Streams

MEASURED_STEPS = 3
# θ, θ′, φ, their two gradients, and two moments for each of two AdamW optimizers.
COPIES_IN_FLOAT32 = 2 + 1 + 2 + 4


def measure(request: ProtectRequest) -> dict[str, Any]:
    """Take three inner steps with stand-in latents and extrapolate.

    Returns:
        `configuration` (resolved), `outer_steps`, `inner_steps`, `estimated_seconds` (without
        drawing the class pictures), `weights_bytes`, `peak_memory_bytes` (as measured), `said`
        (what the user should know) and `lines` for people.
    """
    model, subject, said = request.load()
    settings = request.settings
    inner = max(settings.steps_inner, 1)
    short = settings.model_copy(
        update={"steps_outer": MEASURED_STEPS, "steps_inner": min(settings.steps_inner, 1)}
    )
    latents = stand_ins(model, subject, short)
    bilevel = assemble(
        model, subject, short, Streams(request.seed), latents, low_memory=request.low_memory
    )
    seconds = []
    for _ in _timed(bilevel.iterate(), seconds):
        pass
    # The first step also allocates; the median of three leaves it out.
    per_step = sorted(seconds)[MEASURED_STEPS // 2]
    total = per_step * inner * settings.steps_outer
    weights = sum(weight.numel() for weight in bilevel.weights)
    peak = peak_memory(request.device)
    return {
        "name": request.run_name,
        "preset": request.preset,
        "model": vars(model.ref),
        "photos": len(subject.photos),
        "configuration": settings.model_dump(mode="json"),
        "outer_steps": settings.steps_outer,
        "inner_steps": settings.steps_inner,
        "measured_seconds_per_inner_step": per_step,
        "estimated_seconds": total,
        "weights_bytes": 4 * weights * COPIES_IN_FLOAT32,
        "peak_memory_bytes": peak,
        "said": said,
        "lines": [
            *said,
            f"{len(subject.photos)} photos, {settings.steps_outer} outer × {settings.steps_inner} "
            f"inner steps on {request.device} ({request.dtype})",
            f"about {_duration(total)} for the steps ({per_step:.2f} s per inner step, measured)"
            f", and {settings.prior_pictures} class pictures to draw before them",
            f"memory: {4 * weights * COPIES_IN_FLOAT32 / 2**30:.1f} GiB for weights, gradients and "
            f"optimizers at full precision; {peak / 2**30:.1f} GiB peak as measured just now",
        ],
    }


def _timed(steps: Any, seconds: list[float]) -> Any:
    started = time.monotonic()
    for step in steps:
        seconds.append(time.monotonic() - started)
        started = time.monotonic()
        yield step


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
