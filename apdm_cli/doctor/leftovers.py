"""What killed processes left in the folder of runs. Only what is certainly stale may be removed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from apdm_cli.doctor.findings import Finding, note, ok
from apdm_cli.runs.atomic import TEMPORARY_PREFIX
from apdm_cli.runs.cleaning import orphans
from apdm_cli.runs.disk import format_bytes, is_held, tree_size
from apdm_cli.runs.listing import (
    CACHE,
    CONTROL,
    PARTIAL,
    RunState,
    list_runs,
    partial_folders,
    run_folders,
)
from apdm_cli.runs.places import attack_folders

# A writer that is at work renames its file within seconds, a whole model within minutes.
STALE_SECONDS = 24 * 3600
SET_ASIDE = f".old{PARTIAL}"  # what `Cell.finish` moves out of the way of a newer result


@dataclass(frozen=True)
class Leftover:
    """A file or folder that nobody will ever use again."""

    path: Path
    why: str


def stale(root: Path) -> Iterator[Leftover]:
    """What is certainly of no use: unfinished writes of a day ago, results that were replaced,
    checkpoints of a protection that was killed just after it had finished."""
    now = time.time()
    runs = list(run_folders(root))
    attacks = [folder for run in runs for folder in attack_folders(run)]
    places = [root, *runs, root / CONTROL, root / CACHE, *attacks]
    places += [run / "checkpoints" for run in runs]
    places += [folder for run in runs for folder in (run / "checkpoints").glob("rank-*")]
    for place in places:
        for path in sorted(place.glob(f"{TEMPORARY_PREFIX}*")) if place.is_dir() else ():
            if not path.is_symlink() and now - path.lstat().st_mtime > STALE_SECONDS:
                yield Leftover(path, "an unfinished write")
    for one in list_runs(root):
        checkpoints = one.path / "checkpoints"
        if one.state is RunState.DONE and checkpoints.is_dir() and not is_held(one.path):
            yield Leftover(checkpoints, "checkpoints of a finished run")
    for folder in (root / CONTROL, *attacks):
        for path in partial_folders(folder):
            if path.is_symlink() or is_held(path):
                continue
            key = path.name.removesuffix(PARTIAL).removesuffix(".old")
            if path.name.endswith(SET_ASIDE) and (folder / key).is_dir():
                yield Leftover(path, "a result that was replaced")
            elif not any(path.iterdir()) and now - path.stat().st_mtime > STALE_SECONDS:
                yield Leftover(path, "an empty cell")


def leftovers(root: Path, *, fix: bool) -> Iterator[Finding]:
    """Report, and with `fix` remove, what is stale; and name what can be gone on with."""
    found = list(stale(root))
    size = sum(tree_size(one.path) for one in found)
    what = f"{len(found)} stale leftover{'s' if len(found) != 1 else ''}"
    if found and fix:
        for one in found:
            if one.path.is_dir():
                shutil.rmtree(one.path)
            else:
                one.path.unlink(missing_ok=True)
        yield ok("runs", f"removed {what} ({format_bytes(size)})")
    elif found:
        yield note(
            "runs",
            f"{what} of killed processes ({format_bytes(size)})",
            "apdm doctor --fix removes them.",
            paths=[{"path": str(one.path), "why": one.why} for one in found],
        )
    ownerless = orphans(root)
    if ownerless:
        attacks = "1 attack on an original"
        if len(ownerless) > 1:
            attacks = f"{len(ownerless)} attacks on originals"
        room = format_bytes(sum(tree_size(path) for path in ownerless))
        yield note(
            "runs",
            f"{attacks} that no run needs any more ({room})",
            "To free the room: apdm clean --orphans",
            paths=[str(path) for path in ownerless],
        )
    runs = list_runs(root)
    for run in runs:
        if run.state is RunState.INTERRUPTED:
            yield note(
                "runs",
                f"{run.name} was interrupted",
                "Go on with the same apdm protect and --resume, or remove it: apdm clean "
                f"{run.name}",
            )
        elif run.state is RunState.UNREADABLE:
            advice = f"Restore its manifest.json, or remove it: apdm clean {run.name}"
            yield note("runs", f"{run.name} cannot be read ({run.problem})", advice)
        elif run.attacks_unfinished and not _attacked_now(run.path):
            count = run.attacks_unfinished
            what = "attack was" if count == 1 else "attacks were"
            advice = f"The same apdm attack {run.name} goes on with them."
            yield note("runs", f"{run.name}: {count} {what} interrupted", advice)
    yield ok("runs", f"{len(runs)} in {root}", count=len(runs))


def _attacked_now(run: Path) -> bool:
    return any(is_held(path) for folder in attack_folders(run) for path in partial_folders(folder))
