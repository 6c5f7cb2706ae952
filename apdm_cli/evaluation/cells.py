"""The attacks of a run that can be evaluated, and both of their arms."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from apdm_cli.errors import ApdmError
from apdm_cli.extension.attack import Artifact
from apdm_cli.harness.arms import ArmName
from apdm_cli.harness.plan import CONTROL
from apdm_cli.runs.cells import finished_cells
from apdm_cli.runs.jsonable import canonical_json
from apdm_cli.runs.manifest import MANIFEST, read_record
from apdm_cli.runs.records import CellManifest
from apdm_cli.runs.run import Run
from apdm_cli.scores import LeftOut

_TIMES = ("created", "duration_seconds", "pace")


@dataclass(frozen=True)
class Stop:
    """A budget at which the attacked model was looked at.

    Attributes:
        budget: multiple of the attack's own steps.
        steps: optimizer steps taken by then; None where an older version did not count them.
        pictures: folder of what it drew then; None for the last where its artifact was kept.
    """

    budget: float
    steps: int | None
    pictures: Path | None


@dataclass(frozen=True)
class AttackCell:
    """One finished attack on one arm.

    Attributes:
        folder: of the cell; manifest: its manifest.json.
        subject, variant: whom the attack taught, and what tells it from others, in this run's
            words. A control cell is shared by all runs with the same photos, and its own manifest
            has the words of whoever made it.
    """

    folder: Path
    manifest: dict[str, Any]
    subject: dict[str, Any]
    variant: str = ""

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def arm(self) -> ArmName:
        return "original" if self.manifest["arm"] == "original" else "protected"

    @property
    def artifact(self) -> Artifact:
        """What the attack left; ApdmError where it is gone."""
        entry = self.manifest.get("artifact") or {}
        path = _inside(self.folder, str(entry.get("path", "artifact")))
        if not path.is_dir() or not any(path.iterdir()):
            raise ApdmError(
                f"Cell {self.name} has no artifact ({path})",
                "Run it again: apdm attack --rerun, with the options that the report names.",
            )
        return Artifact(entry.get("kind", "pipeline"), path)

    @property
    def stops(self) -> list[Stop]:
        """The budgets, ascending; the last one is drawn from the artifact, if any was kept."""
        steps = (self.manifest.get("summary") or {}).get("steps")
        return [
            Stop(
                float(entry["budget"]),
                entry["steps"],
                _inside(self.folder, entry["pictures"]) if entry["pictures"] else None,
            )
            for entry in self.manifest.get("stops")
            or [{"budget": 1.0, "steps": steps, "pictures": None}]
        ]

    @property
    def subject_words(self) -> str:
        """What stands for the subject in a prompt: "sks person"."""
        word = self.manifest.get("prompt_word", self.subject["identifier"])  # "": the class alone
        return f"{word} {self.subject['class_noun']}".strip()

    @property
    def origin(self) -> dict[str, str]:
        """What pins this cell's pictures: its manifest, but for when it was made.

        An attack that was run again to another end has another manifest (its loss is in there);
        one that came out the same keeps its pictures, and two machines name them the same.
        """
        kept = {key: value for key, value in self.manifest.items() if key not in _TIMES}
        digest = hashlib.sha256(canonical_json(kept).encode()).hexdigest()
        return {"cell": self.name, "manifest": digest}


def _inside(folder: Path, path: str) -> Path:
    """`folder / path`; ApdmError where that leads out of the cell's own folder."""
    whole = folder / path
    if folder.resolve() not in whole.resolve().parents:
        raise ApdmError(
            f"Cell {folder.name} names {path!r}, which is not in its own folder",
            "Its manifest is damaged: run the attack again, with --rerun.",
        )
    return whole


def attack_cells(root: Path, run: Run) -> Iterator[AttackCell | LeftOut]:
    """Both arms of every attack of `run`: the original's first; `LeftOut` for what is unusable.

    A control arm that several attacks of the run share comes once for each of their variants. It
    comes also where only the artifact on the protected model is gone.
    """
    seen = set()
    for folder in finished_cells(run.attacks):
        try:
            protected = read_cell(folder)
        except ApdmError as error:
            yield LeftOut(cell=folder.name, reason=str(error))
            continue
        control = str(protected.manifest.get("control") or "")
        if control and (control, protected.variant) not in seen:
            seen.add((control, protected.variant))
            yield from _control(root / CONTROL / control, protected)
        yield from _usable(protected, run.evaluation / "images" / folder.name)


def _control(folder: Path, protected: AttackCell) -> Iterator[AttackCell | LeftOut]:
    """The control arm of `protected`, in the words of its run."""
    try:
        cell = replace(read_cell(folder), subject=protected.subject, variant=protected.variant)
    except ApdmError as error:
        yield LeftOut(cell=folder.name, reason=str(error))
        return
    yield from _usable(cell, folder / "images")


def read_cell(folder: Path) -> AttackCell:
    """The cell in `folder`, whatever is left of its artifact; ApdmError for a broken manifest."""
    manifest = read_record(folder / MANIFEST, CellManifest)
    if manifest.get("subject") is None:
        raise ApdmError(
            f"Cell {folder.name} does not say whom it taught", "Run the attack again, with --rerun."
        )
    variant = str(manifest.get("variant") or "")
    return AttackCell(folder, manifest, manifest["subject"], variant)


def _usable(cell: AttackCell, pictures: Path) -> Iterator[AttackCell | LeftOut]:
    """`cell`, which needs an artifact or pictures that were drawn with it before.

    `apdm clean --artifacts` leaves the pictures: they still count, and only new ones need more. A
    budget without either costs itself only.
    """
    try:
        if cell.manifest.get("status") == "failed":
            raise ApdmError(f"Attack {cell.name} failed: it has nothing to evaluate")
        # The attack itself draws those of earlier budgets, and of all with `--keep pictures`.
        if all(stop.pictures is None for stop in cell.stops) and not pictures.is_dir():
            _ = cell.artifact
    except ApdmError as error:
        yield LeftOut(cell=cell.name, reason=str(error))
        return
    yield cell
