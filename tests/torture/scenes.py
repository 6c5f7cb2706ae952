"""What is done to the commands, over and over; every scene says what it tried and what failed."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from apdm_cli.doctor.leftovers import leftovers
from tests.hostile.inputs import damaged, pictures
from tests.torture.workshop import (
    COMMANDS,
    NAME,
    Ended,
    Workshop,
    alike,
    differing,
    enlarge,
    fingerprint,
    small_disk,
)

LARGE_KIB = 512 * 1024


@dataclass
class Tally:
    """Tries and failures of one kind."""

    kind: str
    tries: int = 0
    notes: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def note(self, what: str) -> None:
        self.notes[what] = self.notes.get(what, 0) + 1


@dataclass
class Torture:
    """The scenes on one workshop.

    Attributes:
        say: told what is being done, line by line.
    """

    shop: Workshop
    random: random.Random
    say: Callable[[str], None]
    tallies: dict[str, Tally] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.whole: dict[str, Path] = {}
        self.seconds: dict[str, float] = {}
        self._scratch = 0

    def tally(self, kind: str) -> Tally:
        return self.tallies.setdefault(kind, Tally(kind))

    def uninterrupted(self) -> None:
        """Run each command once without any trouble, and keep what there is after each."""
        root = self.shop.folder / "whole"
        for command in COMMANDS:
            self.whole[f"before {command}"] = self.copy_of(root)
            ended = self.shop.run(self.shop.arguments(command, root))
            if ended.code != 0:
                raise RuntimeError(f"apdm {command} fails without any torture:\n{ended.said}")
            self.seconds[command] = ended.seconds
            self.whole[command] = self.copy_of(root)
            self.say(f"uninterrupted {command}: {ended.seconds:.1f} s")

    def scratch(self) -> Path:
        """A path that does not exist yet."""
        self._scratch += 1
        return self.shop.folder / f"scratch-{self._scratch}"

    def copy_of(self, root: Path) -> Path:
        """A new folder with the content of `root`; an empty one where there is none."""
        target = self.scratch()
        target.mkdir()
        if root.exists():
            shutil.copytree(root, target, dirs_exist_ok=True)
        return target

    # Kills

    def kill(self, command: str, times: int = 5) -> None:
        """SIGKILL `command` at `times` random moments, then let it end; compare all it wrote."""
        tally = self.tally(f"SIGKILL in {command}")
        root = self.copy_of(self.whole[f"before {command}"])
        for _ in range(times):
            arguments = self.shop.arguments(command, root)
            if command == "protect" and (root / NAME / "manifest.json").exists():
                arguments.append("--resume")
            ended = self.shop.run(
                arguments, kill_after=self.random.uniform(0.02, 1.1) * self.seconds[command]
            )
            if ended.killed:
                tally.tries += 1
                if command == "protect" and _is_done(root):  # and was about to tidy up and leave
                    ended = replace(ended, code=0)
                    list(leftovers(root, fix=True))
                    break
            elif ended.code == 0:
                break
            else:
                self._judge(tally, ended, f"kill {tally.tries}")
                break
        if not (root / NAME / "manifest.json").exists() or ended.code != 0:
            ended = self.shop.finish(command, root)
        self._compare(tally, ended, root, command)
        shutil.rmtree(root, ignore_errors=True)

    # Full disks

    def full_disk(self, command: str) -> None:
        """A file system that is full in the middle; then more space, and the command again."""
        tally = self.tally(f"full disk in {command}")
        before, after = (_size(self.whole[key]) for key in (f"before {command}", command))
        room = int(before + self.random.uniform(0.0, 0.9) * (after - before))
        root = self.scratch()
        with small_disk(root, room // 1024) as mounted:
            tally.tries += 1
            if mounted:
                shutil.copytree(self.whole[f"before {command}"], root, dirs_exist_ok=True)
                ended = self.shop.run(self.shop.arguments(command, root))
            else:
                tally.note("by a limit on file sizes, because nothing can be mounted here")
                shutil.copytree(self.whole[f"before {command}"], root, dirs_exist_ok=True)
                limit = self.random.choice((0, 512, 4_096, 40_000, 200_000)) or 1
                ended = self.shop.run(self.shop.arguments(command, root), limit=limit)
            tally.note("had enough space" if ended.code == 0 else "ran out of space")
            self._judge(tally, ended, f"{room} bytes")
            if mounted:
                enlarge(root, LARGE_KIB)
            if ended.code != 0:
                ended = self.shop.finish(command, root)
            self._compare(tally, ended, root, command)
        shutil.rmtree(root, ignore_errors=True)

    # Damaged files

    def damage(self) -> None:
        """One file of a finished run is damaged; attack and evaluate run again."""
        tally = self.tally("damaged file")
        root = self.copy_of(self.whole["evaluate"])
        files = [file for file in sorted(root.rglob("*")) if file.is_file()]
        file = self.random.choice(files)
        how = self.random.choice(("cut", "garbage", "empty", "gone", "folder", "zeros"))
        place = file.relative_to(root).as_posix()
        _damage(file, how, self.random)
        tally.tries += 1
        for command in ("attack", "evaluate"):
            ended = self.shop.run(self.shop.arguments(command, root))
            self._judge(tally, ended, f"{place} {how}, {command}")
            if ended.code != 0:
                tally.note("refused")
                break
        else:
            scores = f"{NAME}/evaluation/scores.json"
            same = alike(root / scores, self.whole["evaluate"] / scores)
            tally.note("mended or not needed" if same else "other scores")
            if not same:
                tally.failures.append(f"{place} {how}: other scores, and nothing said")
        shutil.rmtree(root, ignore_errors=True)

    # Hostile photos

    def photos(self, count: int = 40) -> None:
        """A folder with damaged photos: refused by name, or read; never anything else."""
        tally = self.tally("hostile photos")
        samples = pictures()
        ending = self.random.choice(sorted(samples))
        seed = self.random.randrange(2**31)
        for number, (name, content) in enumerate(damaged(samples[ending], count, seed)):
            folder = self.scratch()
            folder.mkdir()
            file = folder / f"a.{ending}"
            file.write_bytes(content)
            tally.tries += 1
            problem, said = _read(folder)
            tally.note(said)
            if problem:
                tally.failures.append(f"{ending} {name} (seed {seed}, {number}): {problem}")
            shutil.rmtree(folder)

    def _judge(self, tally: Tally, ended: Ended, what: str) -> None:
        if ended.problem is not None:
            tally.failures.append(f"{what}: {ended.problem}")
            self.say(f"FAILURE {tally.kind}: {tally.failures[-1]}")

    def _compare(self, tally: Tally, ended: Ended, root: Path, command: str) -> None:
        self._judge(tally, ended, "in the end")
        if ended.code != 0:
            tally.failures.append(f"ended with {ended.code}: {ended.said.strip()[-300:]}")
            return
        different = differing(fingerprint(self.whole[command]), fingerprint(root))
        if different:
            tally.failures.append(f"not bit by bit the same: {', '.join(different[:5])}")
            self.say(f"FAILURE {tally.kind}: {tally.failures[-1]}")


def _is_done(root: Path) -> bool:
    """Whether the protection has written all of its result: there is nothing to resume then."""
    file = root / NAME / "manifest.json"
    return file.exists() and json.loads(file.read_text(encoding="utf-8"))["status"] == "done"


def _read(folder: Path) -> tuple[str | None, str]:
    from apdm_cli.diffusion.photos import load_photos
    from apdm_cli.errors import ApdmError

    try:
        photos = load_photos([folder], 32)
    except ApdmError as error:
        named = folder.name in error.what or "a." in error.what
        return (None if named else f"does not say which file: {error.what}"), "refused"
    except Exception as error:
        return f"{type(error).__name__}: {error}", "failed"
    whole = photos.pixels.isfinite().all() and photos.pixels.abs().max() <= 1
    return (None if whole else "pixels out of range"), "read"


def _damage(file: Path, how: str, draw: random.Random) -> None:
    content = file.read_bytes()
    file.unlink()
    if how == "cut":
        file.write_bytes(content[: draw.randrange(max(1, len(content)))])
    elif how == "garbage":
        file.write_bytes(draw.randbytes(max(1, len(content))))
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "folder":
        file.mkdir()
    elif how == "zeros":
        file.write_bytes(bytes(len(content)))


def _size(root: Path) -> int:
    """Bytes that a folder takes on a small disk: whole pages of its files, and nothing else.

    Anything more would leave enough space for a command that writes little.
    """
    files: Iterator[Path] = (path for path in root.rglob("*")) if root.exists() else iter(())
    return sum((path.stat().st_size + 4095) // 4096 * 4096 for path in files if path.is_file())
