"""The two sizes of a run: the paper's, and one of seconds that measures nothing."""

from __future__ import annotations

from typing import Any, Literal

from benchmarks.paper.tables import ProtectOptions

Scale = Literal["full", "tiny"]
TINY_NOTE = "tiny: shows that it runs, measures nothing"
PICTURES = SAMPLER_STEPS = 2


def protection(options: ProtectOptions, scale: Scale) -> dict[str, Any]:
    """`--set` of `apdm protect`. Without an inner path there is none at tiny scale either."""
    if scale == "full":
        return options.set
    inner = 0 if options.set.get("steps_inner") == 0 else 1
    return {
        **options.set,
        "steps_outer": 2,
        "steps_inner": inner,
        "prior_pictures": PICTURES,
        "sampler_steps": SAMPLER_STEPS,
    }


def attack(scale: Scale) -> dict[str, Any]:
    """`--set` of `apdm attack`, for whichever attack."""
    if scale == "full":
        return {}
    return {"steps": 2, "prior_pictures": PICTURES, "sampler_steps": SAMPLER_STEPS}


def evaluation(options: dict[str, Any], scale: Scale) -> dict[str, Any]:
    """Options of `apdm evaluate`."""
    if scale == "full":
        return options
    return {**options, "images": PICTURES, "class_images": PICTURES, "steps": SAMPLER_STEPS}
