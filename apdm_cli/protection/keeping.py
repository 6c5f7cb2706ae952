"""What is kept of simulated attackers when a protection ends, where that was asked for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from apdm_cli.diffusion.displacements import save_displacements
from apdm_cli.personalization.loop import NonFiniteLoss
from apdm_cli.progress import Progress
from apdm_cli.protection.bench import Bench
from apdm_cli.protection.request import ProtectRequest


def live_to_the_end(bench: Bench, progress: Progress, stopping: Callable[[], bool]) -> None:
    """Let everybody who is alive take the attack steps that are left of their lives.

    θ is the result by now, and stays what it is. One who was just born has moved hardly anything:
    what is worth holding on to is where an attack on the result gets to.

    Args:
        stopping: whether to leave it at that; asked after every step.
    """
    progress.stage("Simulated attackers on the result", sum(steps for _, steps in bench.left))
    whole = []
    for attacker, steps in bench.left:
        attacker.follow()
        try:
            with attacker.alone():
                for _ in attacker.steps(0 if stopping() else steps):
                    progress.advance()
                    if stopping():
                        break
        except NonFiniteLoss as error:  # a finished protection is worth more than it
            progress.said(f"A simulated attacker is not kept: {error.what}.")
            continue
        attacker.rest()
        whole.append((attacker, steps))
    bench.left = whole


def keep_attackers(
    bench: Bench, request: ProtectRequest, rank: int, folder: Path, progress: Progress
) -> None:
    """Fill the empty `folder`: those of every subject, and what the run below has of earlier ones.

    Attackers that move nothing of the network (a word, a text encoder) have none, which is said.
    """
    for number, side in enumerate(bench.each):
        moved = [one.displacement for one, _ in bench.left if one.whose == number]
        kept, name = [one for one in moved if one], side.subject.name
        save_displacements(kept, rank, folder / name)
        if moved and not kept:
            progress.said(
                f"Nothing is kept of the simulated attackers of {name}: they move no weights of "
                "the network."
            )
    for subject in request.earlier:
        assert request.onto is not None
        before = request.onto.displacements / subject.name
        if before.is_dir():
            shutil.copytree(before, folder / subject.name)
