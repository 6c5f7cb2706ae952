"""The queue of cells: whoever works takes the next one that nobody holds.

Several processes may drain one queue. A cell that another one works on is left and looked at
again at the end: then it is finished, or its process was ended and the cell goes on here. One that
fails costs only itself.
"""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from apdm_cli.errors import ApdmError, said
from apdm_cli.extension.attack import Attack
from apdm_cli.harness.arms import Arms
from apdm_cli.harness.keeping import Keep
from apdm_cli.harness.plan import PlannedCell
from apdm_cli.harness.repeating import control_of
from apdm_cli.harness.work import CellWork, run_attack
from apdm_cli.harness.workbench import Judge
from apdm_cli.progress import Progress, Silent
from apdm_cli.runs.cells import CellState
from apdm_cli.runs.disk import is_held
from apdm_cli.runs.interrupts import NOTICE, Stopped, StopSignals
from apdm_cli.runs.lock import POLL_SECONDS, Held
from apdm_cli.runs.manifest import read_manifest

__all__ = ["Execution", "Observer", "Outcome", "SilentObserver", "run_attack"]


@dataclass(frozen=True)
class Outcome:
    """What became of one cell: done now, cached from before, or failed with an error."""

    planned: PlannedCell
    status: Literal["done", "cached", "failed"]
    manifest: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    hint: str = ""


class Observer(Progress, Protocol):
    """Sees a whole `apdm attack`."""

    def planned(self, cells: Sequence[PlannedCell]) -> None:
        """The cells that will be looked at, in this order."""

    def begin(self, planned: PlannedCell) -> None:
        """A cell that is not cached begins."""

    def end(self, outcome: Outcome) -> None:
        """A cell ended, or was found finished."""


class SilentObserver(Silent):
    """An `Observer` that shows nothing."""

    def planned(self, cells: Sequence[PlannedCell]) -> None:
        """Show no plan."""

    def begin(self, planned: PlannedCell) -> None:
        """Show no beginning."""

    def end(self, outcome: Outcome) -> None:
        """Show no end."""


@dataclass
class Execution:
    """One worker of the queue.

    Attributes:
        arms, root, judge, attacks, checkpoint_every, cell_timeout, events, keep: see `CellWork`.
        rerun: run finished cells again; not those that another worker ran again meanwhile.
        before: how far every cell was when the command began, if that was earlier (`stamps`).
        helped: other workers of the same command take cells: what they do counts as done here.
    """

    arms: Arms
    root: Path
    observer: Observer
    judge: Judge | None = None
    rerun: bool = False
    checkpoint_every: int = 0
    attacks: Mapping[str, Attack] | None = None
    cell_timeout: float = 0.0
    events: bool = False
    keep: Keep = "artifact"
    before: Mapping[Path, str] | None = None
    helped: bool = False

    def run(self, cells: Sequence[PlannedCell]) -> list[Outcome]:
        """Have every cell of `cells` done, here or elsewhere; returns their outcomes in order.

        Raises:
            Stopped: a signal arrived. The cell that was running can be resumed.
        """
        self.observer.planned(cells)
        before = stamps(cells) if self.before is None else self.before
        outcomes: dict[Path, Outcome] = {}
        with StopSignals(lambda: self.observer.said(NOTICE)) as signals:
            work = CellWork(
                self.arms,
                self.root,
                self.judge,
                self.attacks,
                self.checkpoint_every,
                self.observer,
                signals,
                self.cell_timeout,
                self.events,
                self.keep,
            )
            waiting, told = list(cells), False
            while waiting:
                held: list[PlannedCell] = []
                for planned in waiting:
                    # Those that others had are looked at before more work of ours, to tell of them.
                    held = [one for one in held if not self._told(one, before, outcomes)]
                    outcome = self._one(planned, work, before[planned.cell.path])
                    if outcome is None:
                        held.append(planned)
                        continue
                    self.observer.end(outcome)
                    outcomes[planned.cell.path] = outcome
                if held and not told and not self.helped:
                    self.observer.said(_waits_for(held))
                    told = True
                waiting = held
                _pause(bool(held), signals)
        return [outcomes[planned.cell.path] for planned in cells]

    def watch(
        self, cells: Sequence[PlannedCell], at_work: Callable[[], str | None]
    ) -> list[Outcome]:
        """As `run`, where only others work.

        Args:
            at_work: None while they do; else why they do not, as a sentence or "".

        Raises:
            ApdmError: nobody works any more, and cells are left.
            Stopped: a signal arrived.
        """
        self.observer.planned(cells)
        before = stamps(cells) if self.before is None else self.before
        outcomes: dict[Path, Outcome] = {}
        with StopSignals(lambda: self.observer.said(NOTICE)) as signals:
            waiting = list(cells)
            while waiting:
                gone = at_work()  # first: what they have just done is then seen
                waiting = [one for one in waiting if not self._told(one, before, outcomes)]
                if waiting and gone is not None:
                    raise ApdmError(
                        f"All workers have ended, and {waiting[0].title} is not done"
                        + (f": {gone}" if gone else ""),
                        "The same command goes on with what is left.",
                    )
                _pause(bool(waiting), signals)
        return [outcomes[planned.cell.path] for planned in cells]

    def _told(
        self, planned: PlannedCell, before: Mapping[Path, str], outcomes: dict[Path, Outcome]
    ) -> bool:
        """Whether a cell that another worker had has ended; then it is told and noted."""
        outcome = self._elsewhere(planned, before[planned.cell.path])
        if outcome is not None:
            self.observer.end(outcome)
            outcomes[planned.cell.path] = outcome
        return outcome is not None

    def _one(self, planned: PlannedCell, work: CellWork, before: str) -> Outcome | None:
        """The outcome of a cell; None while another process works on it."""
        if (outcome := self._elsewhere(planned, before)) is not None:
            return outcome
        control = control_of(planned, self.root)
        if control is not None and is_held(control.cell.partial):
            return None  # whoever works on it works on this one, too
        try:
            planned.cell.claim()
        except Held:
            return None
        # Until it was claimed, another process may have finished it.
        if (outcome := self._elsewhere(planned, before)) is not None:
            planned.cell.let_go()
            return outcome
        self.observer.begin(planned)
        try:
            with planned.cell.writing(fresh=self.rerun) as folder:
                manifest = _leaving_partial(work, planned, folder)
        except _LeavePartial as leaving:
            raise leaving.reason from None
        except ApdmError as error:
            return Outcome(planned, "failed", error=error.what, hint=error.hint)
        except Exception as error:
            # An attack is anybody's code: whatever it raises costs its own cell only.
            _write_traceback(planned, error)
            name, words = type(error).__name__, said(error)
            text = name if words == name else f"{name}: {words}"
            hint = f"The traceback is in {planned.cell.partial / 'traceback.txt'}"
            return Outcome(planned, "failed", error=text, hint=hint)
        return Outcome(planned, "done", manifest)

    def _elsewhere(self, planned: PlannedCell, before: str) -> Outcome | None:
        """The outcome of a cell that needs no work of ours: finished, or just failed elsewhere."""
        changed = _stamp(planned) != before
        if planned.finished and (changed or not self.rerun):
            manifest = read_manifest(planned.cell.path)
            return Outcome(planned, "done" if changed and self.helped else "cached", manifest)
        if changed and planned.cell.state is CellState.FAILED:
            failure = planned.cell.failure
            return Outcome(planned, "failed", error=failure["error"], hint=failure["hint"])
        return None


class _LeavePartial(BaseException):
    """Carries `Stopped` past the cell's own handling: the cell did not fail, it goes on later."""

    def __init__(self, reason: Stopped) -> None:
        super().__init__(str(reason))
        self.reason = reason


def _leaving_partial(work: CellWork, planned: PlannedCell, folder: Path) -> dict[str, Any]:
    try:
        return work.do(planned, folder)
    except Stopped as stopped:
        raise _LeavePartial(stopped) from None


def stamps(cells: Sequence[PlannedCell]) -> dict[Path, str]:
    """How far every cell is: what changes when somebody ends it."""
    return {planned.cell.path: _stamp(planned) for planned in cells}


def _stamp(planned: PlannedCell) -> str:
    """When the cell was finished, or failed last: it changes when another worker ends it."""
    try:
        if planned.cell.state is CellState.FINISHED:
            return str(read_manifest(planned.cell.path).get("created"))
        if planned.cell.state is CellState.FAILED:
            return str(planned.cell.failure.get("time"))
    except ApdmError:  # in between two states
        return ""
    return ""


def _waits_for(held: Sequence[PlannedCell]) -> str:
    others = f" and {len(held) - 1} more" if len(held) > 1 else ""
    return (
        f"Waiting for {held[0].title}{others}: another apdm process is working on it "
        f"({held[0].cell.partial})."
    )


def _pause(waiting: bool, signals: StopSignals) -> None:
    if not waiting:
        return
    if signals.received:
        raise Stopped("The attack was stopped while it waited for another process.")
    time.sleep(POLL_SECONDS)


def _write_traceback(planned: PlannedCell, error: Exception) -> None:
    text = "".join(traceback.format_exception(error))
    with contextlib.suppress(OSError):  # a full disk, or a folder that the attack has deleted
        (planned.cell.partial / "traceback.txt").write_text(text, "utf-8", "backslashreplace")
