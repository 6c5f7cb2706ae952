"""Whether a launcher started this process as one of several: torchrun, accelerate, a cluster's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from apdm_cli.errors import UsageError

# What every launcher of torch.distributed sets.
NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# What accelerate sets in every process, and with it only where several were asked for. On cards it
# starts them as torchrun does; with --cpu it starts one, and leaves the others to MPI.
ACCELERATE, SEVERAL = "ACCELERATE_MIXED_PRECISION", "MASTER_ADDR"


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
        UsageError: numbers that are none; accelerate was asked for several and has started one.
    """
    if not all(environment.get(name) for name in NEEDED):
        _require_all_started(environment)
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


def _require_all_started(environment: Mapping[str, str]) -> None:
    """Of a process without a number: it would make the result of one, and nobody would notice."""
    if environment.get(ACCELERATE) and environment.get(SEVERAL) and not environment.get("RANK"):
        raise UsageError(
            "accelerate launch was asked for several processes, and has started one without a "
            "number: with --cpu it leaves the others to MPI.",
            "Use accelerate launch --multi_gpu --num_processes N, also with --device cpu; or "
            "apdm protect --ranks N, without accelerate.",
        )
