"""What is kept of simulated attackers when a protection ends, where that was asked for."""

from __future__ import annotations

import shutil
from pathlib import Path

from apdm_cli.diffusion.displacements import save_displacements
from apdm_cli.protection.bench import Bench
from apdm_cli.protection.request import ProtectRequest


def keep_displacements(bench: Bench, request: ProtectRequest, rank: int, folder: Path) -> None:
    """Fill the empty `folder`: those of every subject, and what the run below has of earlier ones.

    Attackers that move none of the network's own weights (an adapter, a word) have none.
    """
    for number, side in enumerate(bench.each):
        moved = [one.displacement for one in bench.left if one.whose == number]
        save_displacements([one for one in moved if one], rank, folder / side.subject.name)
    for subject in request.earlier:
        assert request.onto is not None
        before = request.onto.displacements / subject.name
        if before.is_dir():
            shutil.copytree(before, folder / subject.name)
