"""A protected model as the beginning of another protection, and whom it protected before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apdm_cli.errors import ApdmError, UsageError
from apdm_cli.protection.asked import AskedSubject
from apdm_cli.protection.perturbed import KEY
from apdm_cli.runs.run import Run


def open_onto(root: Path, name: str, subjects: Sequence[AskedSubject], run_name: str) -> Run:
    """The finished run that another one goes on from.

    Args:
        subjects: who is added.
        run_name: of the new run, by which a subject without a name is called.

    Raises:
        ApdmError: no such run, not finished, or without a model that can be gone on from.
        UsageError: somebody who is added has the name of somebody who is there.
    """
    run = Run.open(root, name)
    if run.subject:
        raise UsageError(f"--onto {name}: this is one subject of a run", f"Give {run.path.name}.")
    run.require_done()
    if KEY in run.manifest:
        raise UsageError(
            f"--onto {name}: this run protects photos, and has no model of its own",
            "Name a run that protects a model.",
        )
    if not (run.model / "model_index.json").is_file():
        raise ApdmError(
            f"Run {run.name} did not save a whole model, so nothing can be added to it",
            "Protect its subjects again, without --save.",
        )
    there = {subject["name"] for subject in subjects_of(run)}
    for subject in subjects:
        added = subject.called(run_name)
        if added in there:
            raise UsageError(
                f"{added} is protected in run {run.name} already",
                "Give whoever is added another name: --subject NAME=PATH:NOUN",
            )
    return run


def require_displacements(run: Run | None) -> None:
    """Raise where the earlier subjects' attackers are asked for and were not kept.

    Args:
        run: that another one goes on from, if it does.

    Raises:
        ApdmError: it has none of one of its subjects.
        UsageError: there is no such run.
    """
    if run is None:
        raise UsageError(
            "preservation.displaced is for a protection that goes on from another one.",
            "Add --onto RUN, or set it to 0.",
        )
    for subject in subjects_of(run):
        if not any((run.displacements / subject["name"]).glob("*.safetensors")):
            raise ApdmError(
                f"Run {run.name} has kept no displacements of the attackers of {subject['name']}",
                "Protect its subjects again with --keep-attackers 16 and simulated attackers that "
                "train the network, or set preservation.displaced=0.",
            )


def subjects_of(run: Run) -> list[dict[str, Any]]:
    """Whom `run` protects, as its manifest has them."""
    return [dict(view.manifest["subject"]) for view in run.each]
