"""Whether other subjects can still be taught to the protected model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from apdm_cli.errors import ApdmError, UsageError
from apdm_cli.evaluation.session import Session
from apdm_cli.extension.manager import registered_attacks
from apdm_cli.harness.execute import Execution, Outcome, SilentObserver
from apdm_cli.harness.plan import BOTH, PlannedCell, make_jobs, plan_cells
from apdm_cli.harness.suites import SuiteEntry
from apdm_cli.progress import Progress
from apdm_cli.runs.names import slug
from apdm_cli.scores import LeftOut
from apdm_cli.subject import SubjectRecord

ATTACK = "dreambooth"


def neighbour_name(folder: Path) -> str:
    """A readable name: the folder's, or its parent's too where it is "seen" or "photos"."""
    folder = folder.resolve()
    own = slug(folder.name)
    if own in ("seen", "unseen", "photos", "images", ""):
        return slug(folder.parent.name) or own or "neighbour"
    return own


def require_distinct(folders: Sequence[Path]) -> None:
    """UsageError where two of `folders` would have one name: scores could not tell them apart."""
    known: dict[str, Path] = {}
    for folder in folders:
        name = neighbour_name(folder)
        other = known.setdefault(name, folder)
        if other.resolve() != folder.resolve():
            raise UsageError(
                f"--neighbours {other} and --neighbours {folder} would both be called {name}",
                "A neighbour has the name of its folder: rename one of them.",
            )


def teach_neighbours(session: Session) -> Iterator[LeftOut]:
    """Run DreamBooth on both arms for every folder of `settings.neighbours`, unless it is done.

    The cells lie where attacks lie; their subject's name tells them from attacks on the run's own.
    A training that fails costs itself only: it is said, and comes back as what is left out.

    Raises:
        ApdmError: no photos in a folder.
    """
    for folder in session.settings.neighbours:
        name = neighbour_name(folder)
        cells = neighbour_cells(session, folder)
        watcher = _Taught(session.progress, name)
        for outcome in Execution(session.arms, session.root, watcher).run(cells):
            if outcome.status == "failed":
                what = f"{name} on the {outcome.planned.arm} model"
                session.progress.said(f"{what} is left out: {outcome.error}")
                yield LeftOut(cell=what, reason=outcome.error or "")


class _Taught(SilentObserver):
    """Counts the models that somebody is taught to; those of earlier are not spoken of."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress, self._name = progress, name

    def said(self, sentence: str) -> None:
        self._progress.said(sentence)

    def planned(self, cells: Sequence[PlannedCell]) -> None:
        if new := [cell for cell in cells if not cell.finished]:
            self._progress.stage(f"Teaching {self._name}", len(new), unit="models")

    def end(self, outcome: Outcome) -> None:
        if outcome.status != "cached":
            self._progress.advance()


def neighbour_cells(session: Session, folder: Path) -> list[PlannedCell]:
    """The cells that teach the subject of the photos in `folder` to both models.

    Raises:
        ApdmError: no photos in it, or those of the run's own subject, by name or by content.
    """
    arms, root = session.arms, session.root
    own = SubjectRecord.from_manifest(arms.run.manifest["subject"])
    name = neighbour_name(folder)
    if name in arms.run.subject_names and name != own.name:
        raise ApdmError(
            f"--neighbours {folder}: this is the name of another subject that the run protects",
            "A neighbour is somebody else; rename the folder if it is.",
        )
    if name == own.name:
        raise ApdmError(
            f"--neighbours {folder}: this is the name of the protected subject itself",
            "A neighbour is somebody else; rename the folder if it is.",
        )
    neighbour = SubjectRecord.read(name, own.class_noun, own.identifier, [folder])
    if neighbour.digests & own.digests:
        raise ApdmError(
            f"--neighbours {folder}: these are photos of the protected subject itself",
            "A neighbour is somebody else.",
        )
    available = registered_attacks(session.plugins)
    jobs = make_jobs(
        available,
        [SuiteEntry(name=ATTACK)],
        settings=(session.settings.neighbour_attack,),
        subject=neighbour,
        transforms=(),
        seeds=(session.settings.seed,),
        profile=arms.profile(),
    )
    return plan_cells(jobs, arms, root, wanted=BOTH if arms.has_original else ("protected",))
