"""What may be deleted to free room: found first, shown to the user, and only then removed.

Three rules hold throughout. Nothing that another process holds is touched. Nothing is followed out
of the folder of runs, neither by a name nor by a symbolic link. An attack on the original goes
only when no remaining run needs it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from apdm_cli.errors import ApdmError, UsageError
from apdm_cli.runs.atomic import TEMPORARY_PREFIX, writing_to
from apdm_cli.runs.cells import finished_cells
from apdm_cli.runs.disk import format_bytes, is_held, tree_size
from apdm_cli.runs.listing import CACHE, CONTROL, partial_folders, run_folders
from apdm_cli.runs.lock import FolderLock
from apdm_cli.runs.manifest import MANIFEST, read_manifest
from apdm_cli.runs.places import ATTACKS, EVALUATION, attack_folders, places
from apdm_cli.runs.run import no_such_run

ARTIFACT, PICTURES = "artifact", "images"
MOST_NAMED = 3  # attacks in one sentence


class Kind(StrEnum):
    """What a removable folder holds."""

    RUN = "run"
    ARTIFACT = "attacked model"
    PICTURES = "pictures"
    CONTROL = "attack on the original"
    CACHE = "shared class pictures and latents"


@dataclass(frozen=True)
class Removable:
    """One folder that would go.

    Attributes:
        run: whose it is; "" for what all runs share.
    """

    kind: Kind
    path: Path
    run: str
    bytes: int


@dataclass(frozen=True)
class Plan:
    """What one `apdm clean` would remove.

    Attributes:
        runs: folders of the runs that it is about; they are held during the removal.
        kept: sentences about what stays although it was asked for.
    """

    root: Path
    removable: tuple[Removable, ...]
    runs: tuple[Path, ...]
    kept: tuple[str, ...]

    @property
    def bytes(self) -> int:
        return sum(one.bytes for one in self.removable)


def plan(
    root: Path,
    names: Sequence[str],
    *,
    artifacts: bool = False,
    cache: bool = False,
    orphans: bool = False,
) -> Plan:
    """What would be removed; nothing is.

    Args:
        names: runs. With neither flag they go as a whole.
        artifacts: only the attacked models of the runs; scores and pictures stay.
        cache: only the pictures of the runs; without names the class pictures and latents that all
            runs share. All of them are drawn again when they are needed: what cannot be, as the
            attacked model is gone or goes with `artifacts`, stays.
        orphans: only attacks on originals that no run needs; stands alone.

    Raises:
        UsageError: no name where one is needed, a name that leads out of `root`, `orphans` with
            anything else.
        ApdmError: no such run, or one that another process works on.
    """
    if orphans:
        if names or artifacts or cache:
            raise UsageError(
                "--orphans is for attacks on originals that belong to no run.",
                "Give it alone: apdm clean --orphans",
            )
        return _orphans(root)
    if not names and not (cache and not artifacts):
        raise UsageError(
            "Say which runs to clean.",
            f"{_sizes(root)}. apdm clean --cache and apdm clean --orphans need none.",
        )
    folders = [_run_folder(root, name) for name in dict.fromkeys(names)]
    whole = not (artifacts or cache)
    for folder in folders:
        _require_idle(folder)
    if whole:
        _require_no_control_in_progress(root)
    if not names:
        return _shared_cache(root)
    found: list[Removable] = []
    kept: list[str] = []
    spared: list[str] = []
    for folder in folders:
        if whole:
            found.append(_removable(Kind.RUN, folder, folder.name))
        if artifacts:
            found += _of_cells(_finished(folder), Kind.ARTIFACT, folder.name)
        if cache:
            for place in places(folder):
                drawn, stay = _drawn(place, artifacts)
                found += [_removable(Kind.PICTURES, one, folder.name) for one in drawn]
                spared += stay
    controls, shared = _controls(root, folders)
    if shared:
        what = "attacks on the original" if shared > 1 else "attack on the original"
        kept.append(f"{shared} {what} that other runs need")
    if whole:
        found += [_removable(Kind.CONTROL, path, "") for path in controls]
    else:
        if artifacts:
            found += _of_cells(controls, Kind.ARTIFACT, "")
        if cache:
            lasting = _lasting(controls, artifacts)
            found += _of_cells([one for one in controls if one not in lasting], Kind.PICTURES, "")
            spared += [cell.name for cell in lasting if (cell / PICTURES).is_dir()]
    inside = [one for one in found if _is_inside(root, one.path)]
    outside = [one for one in found if one not in inside]
    kept += [f"{one.path}, which is a link or lies behind one" for one in outside]
    if spared:
        more = f" and {len(spared) - MOST_NAMED} more" if len(spared) > MOST_NAMED else ""
        named = f"{', '.join(spared[:MOST_NAMED])}{more}"
        kept.append(f"the pictures of {named}, which only the attacked models could draw again")
    return Plan(root, tuple(inside), tuple(folders), tuple(kept))


def remove(planned: Plan) -> int:
    """Remove what `plan` found; returns the bytes that were freed.

    Each folder is first renamed, so that nobody ever finds half of it.

    Raises:
        ApdmError: another process took hold of something in the meantime (nothing was removed
            then), or the system refuses (what was removed before that stays removed).
    """
    with contextlib.ExitStack() as stack:
        # The root's is that of a process which just makes a run, or removes another.
        ours = [planned.root, *(path for run in planned.runs for path in _locks(run))]
        for folder in ours:
            with contextlib.suppress(FileNotFoundError):
                stack.callback(FolderLock(folder).release)
        if any(one.kind is Kind.RUN for one in planned.removable):
            _require_no_control_in_progress(planned.root)
        if any(one.run == "" for one in planned.removable):
            _require_quiet(planned.root, ours)
        freed = 0
        for one in planned.removable:
            if one.path.exists() and _is_inside(planned.root, one.path):
                _remove(planned.root, one.path)
                freed += one.bytes
        return freed


def _shared_cache(root: Path) -> Plan:
    _require_quiet(root, ())
    folder = root / CACHE
    if not folder.exists():
        return Plan(root, (), (), ())
    if not _is_inside(root, folder):
        return Plan(root, (), (), (f"{folder}, which is a link",))
    return Plan(root, (_removable(Kind.CACHE, folder, ""),), (), ())


def _orphans(root: Path) -> Plan:
    _require_quiet(root, ())
    found = [_removable(Kind.CONTROL, path, "") for path in orphans(root)]
    inside = tuple(one for one in found if _is_inside(root, one.path))
    kept = tuple(f"{one.path}, which is a link" for one in found if one not in inside)
    return Plan(root, inside, (), kept)


def orphans(root: Path) -> list[Path]:
    """Attacks on originals that no run in `root` needs: what interrupted attacks leave.

    Where no run is left at all, this includes those that were never finished.
    """
    folders = list(run_folders(root))
    needed, waiting = _needs(folders)
    cells = finished_cells(root / CONTROL)
    free = [
        cell
        for cell in cells
        if cell.name not in needed and _original(cell / MANIFEST) not in waiting
    ]
    return sorted([*free, *([] if folders else partial_folders(root / CONTROL))])


def _sizes(root: Path) -> str:
    """`Runs in runs: ann (77 MB), bob (3.1 MB)`, the largest first."""
    sizes = sorted(((tree_size(run), run.name) for run in run_folders(root)), reverse=True)
    shown = ", ".join(f"{name} ({format_bytes(size)})" for size, name in sizes)
    return f"Runs in {root}: {shown or 'none'}"


def _run_folder(root: Path, name: str) -> Path:
    """The folder of the run `name` directly below `root`, also one whose manifest is broken."""
    given = Path(name)
    parent = root if given.parent == Path() else given.parent
    if given.name in ("", "..") or parent.resolve() != root.resolve():
        raise UsageError(
            f"{name} does not lie in {root}", "Name the folder of its runs with --out."
        )
    folder = root / given.name
    if folder.is_symlink():
        raise ApdmError(f"{folder} is a symbolic link", "Remove it by hand: nothing is followed.")
    known = [path.name for path in run_folders(root)]
    if folder.name not in known:
        raise no_such_run(root, name, known)
    return folder


def _locks(run: Path) -> list[Path]:
    """What commands hold while they work on a run; some may not be there.

    The run itself is held by `protect`, an evaluation by `evaluate`, a partial cell by `attack`.
    """
    return [run, *(place / EVALUATION for place in places(run)), *_partial(run)]


def _require_idle(folder: Path) -> None:
    _require_free(_locks(folder), "Wait until it has ended, or end it first.")


def _require_no_control_in_progress(root: Path) -> None:
    """Nobody attacks an original: for which run is not written down before that is finished."""
    _require_free(
        partial_folders(root / CONTROL),
        "It may attack the original of a run that would go: wait until it has ended, or end it "
        "first.",
    )


def _require_quiet(root: Path, ours: Collection[Path]) -> None:
    """Nobody works on any run: what all share is not pulled from under a process."""
    paths = [path for folder in run_folders(root) for path in _locks(folder)]
    paths += partial_folders(root / CONTROL)
    paths += (root / CACHE).glob(f"{TEMPORARY_PREFIX}*")  # batches that processes draw
    _require_free(
        (path for path in paths if path not in ours),
        "It may need what all runs share: wait until it has ended, or end it first.",
    )


def _require_free(paths: Iterable[Path], hint: str) -> None:
    for path in paths:
        if is_held(path):
            raise ApdmError(f"Another apdm process is working in {path}", hint)


def _controls(root: Path, folders: Sequence[Path]) -> tuple[list[Path], int]:
    """The control cells that only the runs in `folders` need, and how many others share."""
    ours = {key for folder in folders for key in _control_keys(folder)}
    needed, waiting = _needs([folder for folder in run_folders(root) if folder not in folders])
    free, shared = [], 0
    for key in sorted(ours):
        cell = root / CONTROL / key
        if not cell.is_dir():
            continue
        if key in needed or _original(cell / MANIFEST) in waiting:
            shared += 1
        else:
            free.append(cell)
    return free, shared


def _needs(runs: Collection[Path]) -> tuple[set[str], set[str | None]]:
    """The control cells that `runs` name, and the originals of which they may need any.

    That is those of runs whose attacks are unfinished: which cells they need is written down only
    when a cell is finished.
    """
    named = {key for folder in runs for key in _control_keys(folder)}
    unfinished = (folder for folder in runs if _partial(folder))
    return named, {_original(folder / MANIFEST) for folder in unfinished} - {None}


def _control_keys(folder: Path) -> Iterator[str]:
    for cell in _finished(folder):
        key = _manifest(cell / MANIFEST).get("control")
        if isinstance(key, str) and key and Path(key).name == key:
            yield key


def _finished(run: Path) -> list[Path]:
    """The finished cells of a run, of all its subjects."""
    return [cell for folder in attack_folders(run) for cell in finished_cells(folder)]


def _partial(run: Path) -> list[Path]:
    """The cells of a run that were begun and not finished, of all its subjects."""
    return [cell for folder in attack_folders(run) for cell in partial_folders(folder)]


def _original(file: Path) -> str | None:
    """Digest of the model in a manifest: of a run or of a control cell, that is the original."""
    model = _manifest(file).get("model")
    digest = model.get("digest") if isinstance(model, dict) else None
    return digest if isinstance(digest, str) else None


def _manifest(file: Path) -> dict[str, Any]:
    try:
        return read_manifest(file)
    except ApdmError:
        return {}


def _drawn(place: Path, artifacts: bool) -> tuple[list[Path], list[str]]:
    """The folders of pictures in `place` that may go, and the cells whose pictures may not."""
    cells, images = finished_cells(place / ATTACKS), place / EVALUATION / PICTURES
    lasting = _lasting(cells, artifacts)
    own = [cell / PICTURES for cell in cells if cell not in lasting]
    stay = [cell.name for cell in lasting if (images / cell.name).is_dir()]
    below = [one for one in sorted(images.iterdir()) if one.name not in stay] if stay else [images]
    return [one for one in (*below, *own) if one.exists()], stay


def _lasting(cells: Sequence[Path], artifacts: bool) -> list[Path]:
    """Those of `cells` whose pictures cannot be drawn again.

    Args:
        artifacts: all attacked models go, and not only some are gone.
    """
    return [
        cell
        for cell in cells
        if artifacts or not (cell / ARTIFACT).is_dir() or not any((cell / ARTIFACT).iterdir())
    ]


def _of_cells(cells: Sequence[Path], kind: Kind, run: str) -> Iterator[Removable]:
    for cell in cells:
        folder = cell / (ARTIFACT if kind is Kind.ARTIFACT else PICTURES)
        if folder.exists():
            yield _removable(kind, folder, run)


def _removable(kind: Kind, path: Path, run: str) -> Removable:
    return Removable(kind, path, run, tree_size(path))


def _is_inside(root: Path, path: Path) -> bool:
    """Whether `path` lies below `root` with no symbolic link on the way and is none itself."""
    return path.resolve() == root.resolve() / path.relative_to(root)


def _remove(root: Path, path: Path) -> None:
    with writing_to(path):
        # The rename is one step for everybody who looks; what a killed removal leaves is found
        # and removed by `apdm doctor --fix`.
        aside = root / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
        os.replace(path, aside)
        shutil.rmtree(aside)
