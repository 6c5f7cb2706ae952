"""A run: one folder below ./runs with a manifest that always tells how far it got."""

from __future__ import annotations

import contextlib
import difflib
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apdm_cli.errors import ApdmError, said
from apdm_cli.paths import require_ordinary
from apdm_cli.runs.atomic import PRIVATE, remove_leftovers, writing_to
from apdm_cli.runs.disk import is_held
from apdm_cli.runs.lock import FolderLock
from apdm_cli.runs.manifest import MANIFEST, now, read_manifest, versions, write_json_atomic
from apdm_cli.runs.names import check_name
from apdm_cli.runs.places import ATTACKS, EVALUATION, place_of
from apdm_cli.runs.precision import to_name
from apdm_cli.runs.records import LONGEST_TEXT

RUNNING, DONE, FAILED = "running", "done", "failed"
KIND = "protect"  # of a run's manifest; cells have others


def no_run_in(root: Path, name: str = "") -> ApdmError:
    """That there is none in `root`, or none of that name, and how one comes there."""
    wanted = f"no run {name}" if name else "no run"
    if root.is_dir():
        what = f"There is {wanted} in {root}"
    elif root.exists():
        what = f"There is {wanted}: {root} is a file, and no folder of runs"
    else:
        what = f"There is {wanted}: the folder {root} does not exist"
    where = "" if root == Path("runs") else f" --out {shlex.quote(str(root))}"
    return ApdmError(what, f"Make one with: apdm protect PHOTOS --class NOUN{where}")


def no_such_run(root: Path, name: str, known: Sequence[str]) -> ApdmError:
    """That none of the runs `known` in `root` is called so; the nearest is named."""
    if not known:
        return no_run_in(root, name)
    close = difflib.get_close_matches(name, known, n=1)
    meant = f". Did you mean {close[0]}?" if close else ""
    return ApdmError(f"There is no run {name} in {root}{meant}", f"Runs there: {', '.join(known)}.")


class Run:
    """The folder of one run; `manifest` mirrors its manifest.json.

    running → done | failed; a run that is running (its process was killed) or failed may be
    resumed. While this process creates or resumes a run, no other can.

    A run may protect several subjects. `each` then has a view of it for every one: the same model
    and manifest with `subject` being that one, and attacks and scores in a folder of its own.

    Args:
        subject: name of the one of several subjects that this is a view for.
    """

    def __init__(self, path: Path, manifest: dict[str, Any], subject: str = "") -> None:
        self.path = path
        self.manifest = manifest
        self.subject = subject
        self._lock: FolderLock | None = None

    @classmethod
    def create(cls, root: Path, name: str, **fields: Any) -> Run:
        """Make the folder `root/name` with a manifest `running` that also holds `fields`.

        Raises `UsageError` for a name that can be no folder, `ApdmError` when there is such a
        run already or `root` cannot be written.
        """
        path = root / check_name(name)
        with writing_to(root):
            root.mkdir(parents=True, exist_ok=True)
        try:
            with writing_to(path):
                path.mkdir(mode=PRIVATE)
        except ApdmError as error:
            if not isinstance(error.__cause__, FileExistsError):
                raise
            if not path.is_dir() or any(path.iterdir()):  # an empty folder is no obstacle
                raise _exists(path) from error
            _make_private(path)
        run = cls(path, {"kind": KIND, "name": name, "status": RUNNING, "created": now()})
        run._lock = FolderLock(path)
        try:
            run.update(versions=versions(), **fields)
        except BaseException:
            run.discard()
            raise
        return run

    @classmethod
    def open(cls, root: Path, name_or_path: str | Path) -> Run:
        """The run of that name below `root`, or the run in that folder.

        `RUN/NAME` is the view of the run for one of its several subjects.
        """
        below = root / name_or_path
        require_ordinary(below, "RUN")
        path = below if (below / MANIFEST).is_file() else Path(name_or_path)
        if not (path / MANIFEST).is_file():
            inside = len(Path(name_or_path).parts) > 1
            for folder in (below.parent, path.parent) if inside else ():
                if (folder / MANIFEST).is_file():
                    return cls(folder, read_manifest(folder)).of_subject(path.name)
            raise no_such_run(root, str(name_or_path), [run.name for run in cls.all(root)])
        if path.name in ("", ".."):  # its name, and the folder of all runs, are asked of the path
            path = path / ".." / path.resolve().name
        return cls(path, read_manifest(path))

    @classmethod
    def root_of(cls, root: Path, name_or_path: str | Path | None) -> Path:
        """The folder of all runs that this one lies in: `root`, unless it is named by its folder.

        What runs share, attacks on the original and drawn pictures, lies beside the run.
        """
        return root if name_or_path is None else cls.open(root, name_or_path).path.parent

    @classmethod
    def all(cls, root: Path) -> list[Run]:
        """The readable runs below `root`, oldest first."""
        runs = []
        for file in root.glob(f"*/{MANIFEST}"):
            try:
                manifest = read_manifest(file)
            except ApdmError:
                continue  # whoever opens this one by its name is told what is wrong with it
            if manifest["kind"] == KIND:
                runs.append(cls(file.parent, manifest))
        return sorted(runs, key=lambda run: (run._age, run.name))

    @classmethod
    def newest_finished(cls, root: Path) -> Run:
        """The run that was done last. Raises `ApdmError` when there is none."""
        runs = cls.all(root)
        finished = [run for run in runs if run.status == DONE]
        if finished:
            return finished[-1]
        if runs:
            became, hint = runs[-1]._unfinished()
            raise ApdmError(f"No finished run in {root}: {runs[-1].name} {became}", hint)
        raise no_run_in(root)

    @property
    def name(self) -> str:
        """What `open` takes: of the view for a subject, `RUN/NAME`."""
        name = str(self.manifest.get("name", self.path.name))
        return f"{name}/{self.subject}" if self.subject else name

    @property
    def address(self) -> Path:
        """As `name`, with the whole path."""
        return self.path / self.subject if self.subject else self.path

    @property
    def subject_names(self) -> list[str]:
        """Of several subjects; empty for a run of one."""
        return [str(subject["name"]) for subject in self.manifest.get("subjects") or ()]

    @property
    def each(self) -> list[Run]:
        """The views for its subjects; itself, for a run of one or the view for one."""
        if self.subject or not self.subject_names:
            return [self]
        return [self.of_subject(name) for name in self.subject_names]

    def of_subject(self, name: str) -> Run:
        """The view for the subject `name`. Raises `ApdmError` where there is none of that name."""
        several = () if self.subject else self.manifest.get("subjects") or ()
        for entry in several:
            if entry["name"] == name:
                return Run(self.path, {**self.manifest, "subject": entry}, name)
        only = str((self.manifest.get("subject") or {}).get("name"))
        if name == only and not several:
            return self
        known = [str(entry["name"]) for entry in several] or [only]
        raise ApdmError(
            f"Run {self.name} protects no subject {name}",
            f"Its subjects: {', '.join(known)}.",
        )

    @property
    def place(self) -> Path:
        """The folder of its results: of the view for a subject, one of its own."""
        if self.subject:
            return place_of(self.path, self.subject)
        if self.subject_names:
            raise ValueError(f"run {self.name} has several subjects: ask `each` of its views")
        return self.path

    @property
    def status(self) -> str:
        return str(self.manifest.get("status", FAILED))

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def photos(self) -> Path:
        """Perturbed ones, of a run that protects photos and has no model of its own."""
        return self.path / "photos"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def displacements(self) -> Path:
        """A folder for each subject, where they were kept (`diffusion/displacements.py`)."""
        return self.path / "displacements"

    @property
    def attacks(self) -> Path:
        return self.place / ATTACKS

    @property
    def evaluation(self) -> Path:
        return self.place / EVALUATION

    @property
    def metrics_log(self) -> Path:
        return self.path / "metrics.jsonl"

    def update(self, **fields: Any) -> None:
        """Set fields of the manifest, on the disk first. ApdmError when the run is gone."""
        if self._lock is not None and not self._lock.holds(self.path):
            raise ApdmError(f"The folder of the run, {self.path}, was deleted", "Start it again.")
        changed = {**self.manifest, **fields}
        write_json_atomic(self.path / MANIFEST, changed)
        self.manifest = changed

    def require_done(self) -> None:
        """Raise `ApdmError` for a run without its model: what became of it, and what to type."""
        if self.status != DONE:
            became, hint = self._unfinished()
            raise ApdmError(f"Run {self.name} {became}, so it has no protected model yet", hint)

    def require_unfinished(self) -> None:
        """Raise `ApdmError` for a run that is done: there is nothing to resume."""
        if self.status == DONE:
            raise ApdmError(
                f"Run {self.name} is done: nothing to resume",
                "Choose another --name for a new one.",
            )

    def resume(self) -> None:
        """Back to `running`, for this process alone. Raises `ApdmError` for a run that is done."""
        self.require_unfinished()
        self._lock = self._lock or FolderLock(self.path)
        _make_private(self.path)
        remove_leftovers(self.path)
        self.manifest.pop("error", None)
        self.manifest.pop("finished", None)
        self.update(status=RUNNING, resumed=now())

    def finish(self, **fields: Any) -> None:
        """`done`, with `fields` (duration, summary, ...)."""
        self._end(DONE, **fields)

    def fail(self, error: BaseException | str, **fields: Any) -> None:
        """`failed`, with the error's text."""
        text = error if isinstance(error, str) else said(error)
        self._end(FAILED, error=text[:LONGEST_TEXT], **fields)

    def discard(self) -> None:
        """Remove the folder of a run that came to nothing. Raises when it is `done`."""
        if self.status == DONE:
            raise ValueError(f"run {self.name} is done: it is not discarded")
        self.release()
        shutil.rmtree(self.path)

    def release(self) -> None:
        """Let other processes have the run; `finish`, `fail` and `discard` do it too."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _unfinished(self) -> tuple[str, str]:
        """What became of a run that is not done, and what to do about it."""
        if self.status == RUNNING and is_held(self.path):
            return "is still being made", "Wait until its apdm protect has ended: see apdm runs."
        became = "was interrupted" if self.status == RUNNING else "failed"
        return became, f"Go on with the command that began it: {self.begun_by()} --resume"

    def begun_by(self) -> str:
        """`apdm protect` with what the manifest keeps; `...` stands for further settings."""
        subject, model = self.manifest.get("subject") or {}, self.manifest.get("model") or {}
        before = (self.manifest.get("onto") or {}).get("subjects") or ()
        every = self.manifest.get("subjects") or ()
        several = [one for one in every if one["name"] not in before]
        sources = [] if several else _sources(subject)
        root = self.path.parent
        options = (
            ("--class", None if several else subject.get("class_noun"), None),
            ("--identifier", None if several else subject.get("identifier"), "sks"),
            ("--onto", (self.manifest.get("onto") or {}).get("name"), None),
            ("--model", None if before else model.get("source"), "pocket"),
            ("--method", self.manifest.get("method"), "apdm"),
            ("--preset", self.manifest.get("preset"), None),
            ("--ranks", self.manifest.get("ranks"), 1),
            ("--dtype", to_name(self.manifest), None),
            ("--out", None if root == Path("runs") else root, None),
            ("--name", self.path.name, None),
            ("--keep-attackers", self.manifest.get("keep_attackers"), None),
        )
        words = ["apdm", "protect", *map(str, sources)]
        for one in several:
            said = ":".join((str(_sources(one)[0]), one["class_noun"], one["identifier"]))
            words += ["--subject", f"{one['name']}={said}"]
        for option, value, usual in options:
            words += [option, str(value)] if value not in (None, usual) else []
        return f"{shlex.join(words)} ..."

    def _end(self, status: str, **fields: Any) -> None:
        if self.status != RUNNING:
            raise ValueError(f"run {self.name} is {self.status}: it cannot become {status}")
        self.update(status=status, finished=now(), **fields)
        self.release()

    @property
    def _age(self) -> str:
        return str(self.manifest.get("finished") or self.manifest.get("created") or "")


def _sources(subject: dict[str, Any]) -> list[str]:
    return (subject.get("photos") or {}).get("sources") or ["PHOTOS"]


def _make_private(folder: Path) -> None:
    """Close a folder that was made by hand, or by an earlier version, to others."""
    with contextlib.suppress(OSError):  # somebody else's folder, or a file system without modes
        folder.chmod(PRIVATE)


def free_name(root: Path, name: str) -> str:
    """`name`, or the first of `name-2`, `name-3`, ... that is no folder below `root` yet."""
    candidate, number = name, 2
    while (root / candidate).exists():
        candidate, number = f"{name}-{number}", number + 1
    return candidate


def require_free(root: Path, name: str) -> None:
    """Raise as `Run.create` would for a name that cannot be used or is taken; makes nothing."""
    path = root / check_name(name)
    with writing_to(path):
        taken = path.exists() and (not path.is_dir() or any(path.iterdir()))
    if taken:
        raise _exists(path)


def _exists(path: Path) -> ApdmError:
    other = f"--name {free_name(path.parent, path.name)}"
    try:
        status = Run.open(path.parent, path.name).status
    except ApdmError:
        return ApdmError(
            f"{path} exists and is not a run that can be read", f"Choose another name: {other}"
        )
    if status == DONE:
        return ApdmError(
            f"Run {path.name} exists already and is done ({path})", f"Choose another name: {other}"
        )
    return ApdmError(
        f"Run {path.name} exists already, not finished ({path})",
        f"Go on with it by adding --resume, or choose another name: {other}",
    )
