"""Whether a launcher has started this process as one of several: torchrun, accelerate, a cluster's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from apdm_cli.errors import UsageError

# What every launcher of torch.distributed sets.
NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Launched:
    """This process among those that a launcher has started.

    Attributes:
        number: from 0.
        count: of all of them, at least 2.
        local: number among those of this machine.
    """

    number: int
    count: int
    local: int

    @property
    def leads(self) -> bool:
        """Whether it is the one that writes and talks."""
        return self.number == 0


def launched(environment: Mapping[str, str] = os.environ) -> Launched | None:
    """As the environment says; None where this process is the only one.

    Raises:
        UsageError: numbers that are none.
    """
    if not all(environment.get(name) for name in NEEDED):
        return None
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    words = [environment.get(name) or environment["RANK"] for name in names]
    try:
        number, count, local = map(int, words)
    except ValueError:
        number, count, local = -1, 0, 0
    if not (0 <= number < count and 0 <= local < count):
        said = ", ".join(f"{name}={word}" for name, word in zip(names, words, strict=True))
        raise UsageError(
            f"The environment has {said}, which numbers no process among several.",
            "Start it by torchrun or accelerate launch, or remove these variables.",
        )
    return Launched(number, count, local) if count > 1 else None
