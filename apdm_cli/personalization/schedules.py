"""How the learning rate changes in the course of a training."""

from __future__ import annotations

import math


def scheduled(rate: float, step: int, *, schedule: str, warm_up: int, steps: int) -> float:
    """Learning rate of step `step`, from 0.

    Args:
        rate: the highest.
        schedule: "constant", or "cosine", which falls to nothing by the end of `steps`
            (arXiv 1608.03983, eq. 5, without restarts).
        warm_up: over so many steps the rate rises linearly to `rate` first.
    """
    if step < warm_up:
        return rate * (step + 1) / warm_up
    if schedule == "constant":
        return rate
    done = (step - warm_up) / max(1, steps - warm_up)
    return rate * (1 + math.cos(math.pi * min(1.0, done))) / 2
