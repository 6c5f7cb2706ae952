"""What a machine is sent that does not see the folder of runs, and what comes back from it.

The machine makes a folder of runs of its own, with this one run in it, does one cell there as it
would anywhere, and gives back the files of the cell. Paths are the only difference: those that the
run knows are replaced by where their content lies on that machine, and what comes back has again
those that it would have here.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from apdm_cli.diffusion.photo_files import CAPTION, find_photos, listed, mask_files
from apdm_cli.errors import ApdmError
from apdm_cli.harness.arms import Arms
from apdm_cli.harness.plan import PlannedCell, cell_manifest
from apdm_cli.harness.protected import EXTERNAL, protected_folder
from apdm_cli.harness.workers import Share
from apdm_cli.protection.perturbed import PerturbedPhotos
from apdm_cli.runs.atomic import PRIVATE, writing_to
from apdm_cli.runs.cells import FAILURE
from apdm_cli.runs.disk import format_bytes
from apdm_cli.runs.manifest import MANIFEST, read_manifest, write_json_atomic
from apdm_cli.runs.run import Run
from apdm_cli.runs.workers import Watcher
from apdm_cli.subject import SubjectRecord

# Content by path below a folder: uint8 arrays, which Ray passes on without a copy.
Files = dict[str, np.ndarray]
CellName = tuple[str, str, str]  # of a cell, wherever its run lies: arm, subject, key
RUNS, SENT, PHOTOS = "runs", "sent", "sent/photos"
FAILED = (FAILURE, "traceback.txt")  # what comes back of a cell that failed


@dataclass(frozen=True)
class Luggage:
    """All that the cells of one run need.

    Attributes:
        run: as `Run.open` takes it: the name of its folder, and of the only subject attacked.
        manifest: the run's.
        files: below the folder that they are unpacked into.
        moved: a path, as the run or the command names it → where in that folder its content is.
        photos: what there is of the subjects' photos, for people.
        elsewhere: paths of photos that are not sent, and must be on every machine.
    """

    run: str
    manifest: dict[str, Any]
    files: Files = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    photos: str = ""
    elsewhere: tuple[str, ...] = ()

    @classmethod
    def of(cls, share: Share, run: Run, arms: Sequence[str], *, photos: bool) -> Luggage:
        """What the workers of `share` need for `run`.

        Args:
            arms: those that are attacked.
            photos: whether photos are sent, too.

        Raises:
            ApdmError: something is not there or cannot be read.
        """
        name = run.path.name
        made = cls(f"{name}/{run.subject}" if run.subject else name, read_manifest(run.path))
        made.moved[str(run.path)] = f"{RUNS}/{name}"
        external = run.manifest.get(EXTERNAL)
        if PerturbedPhotos.of(run) is not None:
            made._take(run.photos, f"{RUNS}/{name}/{run.photos.name}")
        elif "protected" in arms and external:
            made._take(protected_folder(run), f"{SENT}/protected", external["source"])
        elif "protected" in arms:
            made._take(protected_folder(run), f"{RUNS}/{name}/{run.model.name}")
        source = str((run.manifest.get("model") or {}).get("source", ""))
        original = Path(source).expanduser()
        if source and original.exists():  # not the embedded model, nor one from the hub
            made._take(original, f"{SENT}/original/{original.name}", source)
        files = [*share.plugin_files, *map(Path, _suite_file(share))]
        for number, file in enumerate(files):
            made._take(file, f"{SENT}/{number}/{file.name}", str(file))
        return made._with_photos(photo_sources(share, run), send=photos)

    @property
    def described(self) -> str:
        """How much is sent, for people."""
        size = format_bytes(sum(content.nbytes for content in self.files.values()))
        whose = "photos are read where they lie" if self.elsewhere else f"among them {self.photos}"
        return f"{len(self.files)} files, {size}; {whose}"

    def absent(self) -> str:
        """The first photo, or folder of photos, that is not sent and not on this machine; or ""."""
        return next((path for path in self.elsewhere if not Path(path).exists()), "")

    def unpack(self, folder: Path) -> dict[str, str]:
        """Fill `folder`; returns where everything is that was moved: old path → new one."""
        write_files(self.files, folder)
        there = {name: str(folder / place) for name, place in self.moved.items()}
        run = folder / RUNS / self.run.partition("/")[0]
        run.mkdir(parents=True, exist_ok=True)
        write_json_atomic(run / MANIFEST, _renamed(self.manifest, there))
        return there

    def _take(self, path: Path, place: str, name: str = "") -> None:
        if path.is_dir():
            found = [file for file in sorted(path.rglob("*")) if file.is_file()]
            for file in found:
                self.files[f"{place}/{file.relative_to(path).as_posix()}"] = _content(file)
        else:
            self.files[place] = _content(path)
        if name:
            self.moved[name] = place

    def _with_photos(self, sources: Sequence[Path], *, send: bool) -> Luggage:
        names, size = [], 0
        for number, source in enumerate(sources):
            place = f"{PHOTOS}/{number}"
            for file in _photos_and_what_belongs_to_them(source):
                names.append(file.name)
                size += file.stat().st_size
                if send:
                    self.files[f"{place}/{file.name}"] = _content(file)
            if send:
                self.moved[str(source)] = place if source.is_dir() else f"{place}/{source.name}"
        photos = f"the photos and what lies beside them, {listed(names, 20)} ({format_bytes(size)})"
        elsewhere = () if send else tuple(map(str, sources))
        return replace(self, photos=photos, elsewhere=elsewhere)


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
    with _room(home) as room:
        there = luggage.unpack(room)
        execution, cells = _sent(share, there, luggage.run, room / RUNS).execution(device, reports)
        execution.root, execution.before = home, None
        found = [one for one in cells if name_of(one) == cell]
        if not found:
            raise ApdmError(
                f"The cell {cell[-1]} is not planned here as it was by the command",
                "Every machine needs the same plugins.",
            )
        (outcome,) = execution.run([replace(found[0], job=replace(found[0].job, budgets=budgets))])
        if outcome.status == "failed":
            return _read(outcome.planned.cell.partial, FAILED)
        back = {there[name]: name for name in there}
        back[str(room / RUNS)] = str(share.request.root)
        return _with_paths(_read(outcome.planned.cell.path), back)


def name_of(planned: PlannedCell) -> CellName:
    """What it is called on every machine."""
    return planned.arm, planned.whom, planned.cell.key


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


def write_files(files: Files, folder: Path) -> None:
    """Write them below `folder`."""
    for name, content in files.items():
        file = folder / name
        with writing_to(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            content.tofile(file)


def _sent(share: Share, there: Mapping[str, str], run: str, root: Path) -> Share:
    """`share` for the run in `root`, with everything where it is on this machine."""
    request = replace(
        share.request,
        root=root,
        run=run,
        suite=there.get(share.request.suite or "", share.request.suite),
        photos=tuple(Path(there.get(str(path), path)) for path in share.request.photos),
    )
    files = tuple(Path(there.get(str(file), file)) for file in share.plugin_files)
    return replace(share, request=request, plugin_files=files, rerun=False)


def _suite_file(share: Share) -> list[str]:
    suite = share.request.suite
    return [suite] if suite is not None and suite.endswith(".toml") else []


def _photos_and_what_belongs_to_them(source: Path) -> list[Path]:
    """The photos in `source`, and the captions and masks beside them."""
    photos = find_photos([source], ignore_unreadable=True).files
    captions = [photo.with_suffix(CAPTION) for photo in photos]
    masks = [mask.path for _, mask in mask_files([source]) if mask is not None]
    return [*photos, *(file for file in captions if file.is_file()), *masks]


def _renamed(value: Any, there: Mapping[str, str]) -> Any:
    """`value` of a manifest, with paths as they are on this machine."""
    if isinstance(value, dict):
        return {key: _renamed(item, there) for key, item in value.items()}
    if isinstance(value, list):
        return [_renamed(item, there) for item in value]
    return there.get(value, value) if isinstance(value, str) else value


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


def _read(folder: Path, names: Sequence[str] = ()) -> Files:
    files = [folder / name for name in names] or sorted(folder.rglob("*"))
    return {file.relative_to(folder).as_posix(): _content(file) for file in files if file.is_file()}


def _content(file: Path) -> np.ndarray:
    try:
        return np.fromfile(file, dtype=np.uint8)
    except OSError as error:
        raise ApdmError(
            f"{file} cannot be read: {error.strerror or error}", "Check its permissions."
        ) from error


@contextlib.contextmanager
def _room(home: Path) -> Iterator[Path]:
    """A folder for one cell; photos are the first that is removed of it."""
    with writing_to(home):
        home.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        room = Path(tempfile.mkdtemp(prefix="cell-", dir=home))
    try:
        yield room
    finally:
        shutil.rmtree(room / PHOTOS, ignore_errors=True)
        shutil.rmtree(room, ignore_errors=True)
