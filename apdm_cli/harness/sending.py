"""What a machine is sent to do the cells of attacks, and what comes back from it.

For machines that do not see the folder of runs (`harness.luggage`): each does a cell as it would
anywhere, and gives back its files, in which paths are again as they would be here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from apdm_cli.errors import ApdmError
from apdm_cli.harness.arms import Arms
from apdm_cli.harness.luggage import (
    RUNS,
    Files,
    Luggage,
    moved_files,
    read_files,
    room,
    write_files,
)
from apdm_cli.harness.plan import PlannedCell, cell_manifest
from apdm_cli.harness.workers import Share
from apdm_cli.runs.cells import FAILURE
from apdm_cli.runs.manifest import MANIFEST, read_manifest, write_json_atomic
from apdm_cli.runs.run import Run
from apdm_cli.runs.workers import Watcher
from apdm_cli.subject import SubjectRecord

CellName = tuple[str, str, str]  # of a cell, wherever its run lies: arm, subject, key
FAILED = (FAILURE, "traceback.txt")  # what comes back of a cell that failed


def luggage_of(share: Share, run: Run, arms: Sequence[str], *, send_photos: bool) -> Luggage:
    """All that the cells of `share` need.

    Args:
        arms: those of every planned cell, also of finished ones.

    Raises:
        ApdmError: something is not there or cannot be read.
    """
    files = [*share.plugin_files, *map(Path, _suite_file(share))]
    return Luggage.of(run, arms, files, photo_sources(share, run), send_photos=send_photos)


def photo_sources(share: Share, run: Run) -> list[Path]:
    """The folders and files, absolute, that hold the photos of those who are attacked."""
    if share.request.photos:
        return list(share.request.photos)
    name = share.request.subject
    views = run.each if name is None else [run.of_subject(name)]
    records = [SubjectRecord.from_manifest(view.manifest["subject"]) for view in views]
    return list(dict.fromkeys(source for record in records for source in record.sources))


def do_cell(
    share: Share,
    luggage: Luggage,
    cell: CellName,
    budgets: tuple[float, ...],
    home: Path,
    device: torch.device,
    reports: Watcher,
) -> Files:
    """Do one cell in a folder below `home`, which is removed with all that was unpacked into it.

    Args:
        cell: its `name_of`.
        budgets: at which it is looked at.
        home: what this machine keeps for other cells lies there: class pictures, no photos.

    Returns:
        The files of the finished cell; of one that failed, those that say why.

    Raises:
        ApdmError: the cell is not planned here as it was there.
    """
    with room(home) as folder:
        there = luggage.unpack(folder)
        sent = _sent(share, there, luggage.run, folder / RUNS)
        execution, cells = sent.execution(device, reports)
        execution.root, execution.before = home, None
        found = [one for one in cells if name_of(one) == cell]
        if not found:
            raise ApdmError(
                f"The cell {cell[-1]} is not planned here as it was by the command",
                "Every machine needs the same plugins.",
            )
        (outcome,) = execution.run([replace(found[0], job=replace(found[0].job, budgets=budgets))])
        if outcome.status == "failed":
            return read_files(outcome.planned.cell.partial, FAILED)
        back = {there[name]: name for name in there}
        back[str(folder / RUNS)] = str(share.request.root)
        return _with_paths(read_files(outcome.planned.cell.path), back)


def name_of(planned: PlannedCell) -> CellName:
    """What it is called on every machine."""
    return planned.arm, planned.whom, planned.cell.key


def failure_of(files: Files) -> dict[str, Any]:
    """What failure.json says among what came back of a cell; nothing of one that is finished."""
    content = files.get(FAILURE)
    return {} if content is None else json.loads(content.tobytes())


def put_cell(files: Files, planned: PlannedCell, arms: Arms) -> None:
    """Publish what came back of a cell that this process has claimed; it is let go."""
    folder = planned.cell.begin(fresh=True)
    write_files(files, folder)
    if FAILURE in files:
        planned.cell.let_go()
        return
    theirs = read_manifest(folder)
    write_json_atomic(folder / MANIFEST, {**theirs, **cell_manifest(planned, arms)})
    planned.cell.finish()


def _sent(share: Share, there: Mapping[str, str], run: str, root: Path) -> Share:
    """`share` for the run in `root`, with everything where it is on this machine."""
    request = replace(
        share.request,
        root=root,
        run=run,
        suite=there.get(share.request.suite or "", share.request.suite),
        photos=moved_files(share.request.photos, there),
    )
    files = moved_files(share.plugin_files, there)
    return replace(share, request=request, plugin_files=files, rerun=False)


def _suite_file(share: Share) -> list[str]:
    suite = share.request.suite
    return [suite] if suite is not None and suite.endswith(".toml") else []


def _with_paths(files: Files, back: Mapping[str, str]) -> Files:
    """`files` as they would be there: libraries write into .json files where a model was."""

    def told(content: np.ndarray) -> np.ndarray:
        text = content.tobytes()
        for here, name in back.items():
            text = text.replace(_in_json(here), _in_json(name))
        return np.frombuffer(text, dtype=np.uint8)

    return {
        name: told(content) if name.endswith(".json") else content
        for name, content in files.items()
    }


def _in_json(path: str) -> bytes:
    return json.dumps(path)[1:-1].encode()
