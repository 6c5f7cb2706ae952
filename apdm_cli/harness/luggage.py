"""What a run needs on a machine that does not see the folder of runs.

The machine makes a folder of runs of its own, with this one run in it. Paths are the only
difference: those that the run knows are replaced by where their content lies on that machine. What
is done there is another file's: attacks (`harness.sending`), pictures (`evaluation.sending`).
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from apdm_cli.diffusion.photo_files import CAPTION, find_photos, listed, mask_files
from apdm_cli.errors import ApdmError
from apdm_cli.harness.protected import EXTERNAL, protected_folder
from apdm_cli.protection.perturbed import PerturbedPhotos
from apdm_cli.runs.atomic import PRIVATE, writing_to
from apdm_cli.runs.disk import format_bytes
from apdm_cli.runs.manifest import MANIFEST, read_manifest, write_json_atomic
from apdm_cli.runs.run import Run

# Content by path below a folder: uint8 arrays, which Ray passes on without a copy.
Files = dict[str, np.ndarray]
RUNS, SENT, PHOTOS = "runs", "sent", "sent/photos"


@dataclass(frozen=True)
class Luggage:
    """All that one run needs.

    Attributes:
        run: as `Run.open` takes it: the name of its folder, and of the only subject that counts.
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
    def of(
        cls,
        run: Run,
        arms: Sequence[str],
        files: Sequence[Path] = (),
        photos: Sequence[Path] = (),
        *,
        send_photos: bool = False,
    ) -> Luggage:
        """What `run` needs.

        Args:
            arms: whose models, or perturbed photos, are used.
            files: of the command, such as its plugins.
            photos: folders and files of photos that are used.
            send_photos: whether these are sent, too.

        Raises:
            ApdmError: something is not there or cannot be read.
        """
        name = run.path.name
        made = cls(f"{name}/{run.subject}" if run.subject else name, read_manifest(run.path))
        made.moved[str(run.path)] = f"{RUNS}/{name}"
        external = run.manifest.get(EXTERNAL)
        if PerturbedPhotos.of(run) is not None:
            if "protected" in arms:
                made._take(run.photos, f"{RUNS}/{name}/{run.photos.name}")
        elif "protected" in arms and external:
            made._take(protected_folder(run), f"{SENT}/protected", external["source"])
        elif "protected" in arms:
            made._take(protected_folder(run), f"{RUNS}/{name}/{run.model.name}")
        source = str((run.manifest.get("model") or {}).get("source", ""))
        original = Path(source).expanduser()
        if source and original.exists():  # not the embedded model, nor one from the hub
            made._take(original, f"{SENT}/original/{original.name}", source)
        for number, file in enumerate(files):
            made._take(file, f"{SENT}/{number}/{file.name}", str(file))
        return made._with_photos(photos, send=send_photos)

    @property
    def described(self) -> str:
        """How much is sent, for people."""
        size = format_bytes(size_of(self.files))
        whose = f"among them {self.photos}" if self.photos else "no photos"
        if self.elsewhere:
            whose = "photos are read where they lie"
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
            self.files.update({f"{place}/{name}": it for name, it in read_files(path).items()})
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
        beside = f"the photos and what lies beside them, {listed(names, 20)}"
        photos = f"{beside} ({format_bytes(size)})" if names else ""
        elsewhere = () if send else tuple(map(str, sources))
        return replace(self, photos=photos, elsewhere=elsewhere)


def moved_files(files: Sequence[Path], there: Mapping[str, str]) -> tuple[Path, ...]:
    """`files` of the command, where they are after `Luggage.unpack`."""
    return tuple(Path(there.get(str(file), file)) for file in files)


def size_of(files: Files) -> int:
    """Bytes."""
    return sum(content.nbytes for content in files.values())


def write_files(files: Files, folder: Path) -> None:
    """Write them below `folder`."""
    for name, content in files.items():
        file = folder / name
        with writing_to(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            content.tofile(file)


def read_files(folder: Path, names: Sequence[str] = ()) -> Files:
    """Those of `names`, or all, below `folder`. ApdmError for one that cannot be read."""
    files = [folder / name for name in names] or sorted(folder.rglob("*"))
    return {file.relative_to(folder).as_posix(): _content(file) for file in files if file.is_file()}


@contextlib.contextmanager
def room(home: Path) -> Iterator[Path]:
    """A folder of its own below `home`; photos are the first that is removed of it."""
    with writing_to(home):
        home.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix="cell-", dir=home))
    try:
        yield made
    finally:
        shutil.rmtree(made / PHOTOS, ignore_errors=True)
        shutil.rmtree(made, ignore_errors=True)


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


def _content(file: Path) -> np.ndarray:
    try:
        return np.fromfile(file, dtype=np.uint8)
    except OSError as error:
        raise ApdmError(
            f"{file} cannot be read: {error.strerror or error}", "Check its permissions."
        ) from error
