"""The scores of before, of which some cannot be made a second time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from apdm_cli.diffusion.picture_cache import ABOUT
from apdm_cli.diffusion.pictures import read_png
from apdm_cli.errors import ApdmError
from apdm_cli.evaluation.cells import read_cell
from apdm_cli.harness.plan import CONTROL
from apdm_cli.runs.manifest import read_json
from apdm_cli.runs.run import Run
from apdm_cli.scores import SCORES, ScoreRow, ScoresFile

MOST_NAMED = 3


def require_nothing_lost(root: Path, run: Run) -> None:
    """Refuse to score `run` anew where scores of its attacks would be lost for good.

    That is where neither the pictures that they were made of are there, nor the attacked model
    that could draw them. An attack whose cell is gone as a whole counts no more.

    Raises:
        ApdmError: it names the cells, and both ways to go on.
    """
    file = run.evaluation / SCORES
    try:
        earlier = ScoresFile.read(file, run.name).rows
    except ApdmError:  # there are none, or none that a comparison could use
        return
    lost = list(dict.fromkeys(str(row.cell) for row in earlier if _is_lost(root, run, row)))
    if lost:
        raise ApdmError(
            f"Scores that {file} has could not be made again: the attacked models and the "
            f"pictures of {_listed(lost)} are gone. Nothing was changed",
            "Attack again: apdm attack --rerun, with the options that the report names.\n"
            f"To score only what is left, give {SCORES} another name first.",
        )


def _is_lost(root: Path, run: Run, row: ScoreRow) -> bool:
    """Whether `row` is about an attack of which neither pictures nor the model are left."""
    if row.role not in ("attack", "neighbour") or not row.cell:
        return False
    folder = (root / CONTROL if row.arm == "original" else run.attacks) / row.cell
    if not folder.is_dir():
        return False
    pictures = run.path / (row.images or "")
    try:
        cell = read_cell(folder)
        stop = next((one for one in cell.stops if one.budget == row.budget), None)
        if stop is None:  # the attack was made again, with other budgets
            return False
        if stop.pictures is None:
            _ = cell.artifact
            return False
        pictures = stop.pictures
    except ApdmError:
        pass
    return not _is_whole(pictures)


def _is_whole(folder: Path) -> bool:
    """Whether every picture is there that `folder` says it has."""
    try:
        count = len(read_json(folder / ABOUT)["prompts"])
    except (ApdmError, KeyError, TypeError):
        return False
    return all(read_png(folder / f"{index:04d}.png") is not None for index in range(count))


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
