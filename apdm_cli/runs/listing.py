"""What is known about the runs in a folder from their files alone: no model is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from apdm_cli.errors import ApdmError
from apdm_cli.runs.cells import Cell, CellState, finished_cells
from apdm_cli.runs.disk import is_held, tree_size
from apdm_cli.runs.manifest import MANIFEST, read_json, read_manifest
from apdm_cli.runs.places import attack_folders
from apdm_cli.runs.run import DONE, FAILED, RUNNING, Run

CONTROL, CACHE, COMPARISONS = "_control", "_cache", "_comparisons"
PARTIAL, REPORT = ".partial", "report.html"


class RunState(StrEnum):
    """What became of a run; `interrupted` is one that nobody works on and that is not done."""

    DONE = "done"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class RunSummary:
    """One row of `apdm runs`.

    Attributes:
        subject: as in a prompt ("sks person"), or the names of several; class_noun: its last word.
        created, finished: ISO 8601 in UTC, as in the manifest.
        age_seconds: since it was finished, or else created.
        attacks_done, attacks_failed, attacks_unfinished: cells on the protected model. Finished
            before counts as done also where a later try failed.
        answer, verdict: of its last comparison, in plain words and in numbers; None before one.
        report: the page of that comparison, where it is there.
        hint: how to go on with a run that was interrupted.
        problem: why the run cannot be read, or what made it fail.
    """

    name: str
    path: Path
    state: RunState
    subject: str = ""
    class_noun: str = ""
    created: str | None = None
    finished: str | None = None
    age_seconds: float | None = None
    bytes: int = 0
    attacks_done: int = 0
    attacks_failed: int = 0
    attacks_unfinished: int = 0
    answer: str | None = None
    verdict: str | None = None
    report: Path | None = None
    hint: str | None = None
    problem: str | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def list_runs(root: Path) -> list[RunSummary]:
    """Every run below `root`, unreadable ones too, the newest first; none without the folder."""
    if not root.is_dir():
        return []
    found = [summarize(folder) for folder in run_folders(root)]
    return sorted(found, key=lambda run: (run.finished or run.created or "", run.name))[::-1]


def run_folders(root: Path) -> Iterator[Path]:
    """The folders below `root` that hold a manifest, by name; `_control` and the like do not."""
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        if not folder.name.startswith(("_", ".")) and (folder / MANIFEST).is_file():
            yield folder


def summarize(folder: Path) -> RunSummary:
    """The row of the run in `folder`; never raises for what is wrong with its files."""
    size = tree_size(folder)
    try:
        manifest = read_manifest(folder)
    except ApdmError as error:
        return RunSummary(folder.name, folder, RunState.UNREADABLE, bytes=size, problem=error.what)
    run = Run(folder, manifest)
    subject = manifest.get("subject")
    words = subject if isinstance(subject, dict) else {}
    class_noun = str(words.get("class_noun", ""))
    when = _text(manifest.get("finished")) or _text(manifest.get("created"))
    states = [cell.state for place in attack_folders(folder) for cell in cells(place)]
    several = ", ".join(run.subject_names)
    return RunSummary(
        # The folder's name is what commands take, whatever the manifest calls itself.
        name=folder.name,
        path=folder,
        state=_state(run),
        subject=several or f"{words.get('identifier', '')} {class_noun}".strip(),
        class_noun=class_noun,
        created=_text(manifest.get("created")),
        finished=_text(manifest.get("finished")),
        age_seconds=_age(when),
        bytes=size,
        attacks_done=states.count(CellState.FINISHED),
        attacks_failed=states.count(CellState.FAILED),
        attacks_unfinished=states.count(CellState.PARTIAL),
        answer=_compared(folder, "answer"),
        verdict=_compared(folder, "verdict"),
        report=report if (report := folder / REPORT).is_file() else None,
        hint=_how_to_go_on(run),
        problem=_text(manifest.get("error")),
    )


def cells(folder: Path) -> list[Cell]:
    """The cells in `folder`, finished or not, by key; what a killed `finish` left aside is none."""
    keys = {path.name for path in finished_cells(folder)}
    keys |= {path.name.removesuffix(PARTIAL) for path in partial_folders(folder)}
    return [Cell(folder, key) for key in sorted(keys) if not key.endswith(".old")]


def partial_folders(folder: Path) -> list[Path]:
    """The folders of the cells in `folder` that were begun and not finished."""
    return sorted(path for path in folder.glob(f"*{PARTIAL}") if path.is_dir())


def _state(run: Run) -> RunState:
    if run.status == RUNNING:
        return RunState.RUNNING if is_held(run.path) else RunState.INTERRUPTED
    return {DONE: RunState.DONE, FAILED: RunState.FAILED}.get(run.status, RunState.UNREADABLE)


def _how_to_go_on(run: Run) -> str | None:
    if _state(run) is not RunState.INTERRUPTED:
        return None
    try:
        run.require_done()
    except ApdmError as error:
        return error.hint
    return None


def _compared(folder: Path, entry: str) -> str | None:
    """What the last comparison says; of several subjects, of the first: the weakest."""
    try:
        compared = read_json(folder / "comparison.json")["runs"]
        compared = [run for run in compared if isinstance(run, dict)]
        said = _text(compared[0].get(entry))
        return f"{compared[0]['name']}: {said}" if said and len(compared) > 1 else said
    except (ApdmError, IndexError, KeyError, TypeError):
        return None


def _age(when: str | None) -> float | None:
    try:
        moment = datetime.fromisoformat(when or "")
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (datetime.now(UTC) - moment).total_seconds())


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
