"""Where the torture happens: tiny models, real processes, and what two folders have in common."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.metrics.material import make_vit
from tests.processes import PATIENCE, Apdm
from tests.tiny import make_photos, make_tiny_pipeline

# One of them is in what every command says that does not do all of what it was asked for.
_SAID = ("Error", "failed", "is left out")
COMMANDS = ("protect", "attack", "evaluate")
NAME = "run"
# Entries that tell when and for how long, and are therefore never the same twice.
TIMES = frozenset(
    {"created", "finished", "resumed", "duration_seconds", "pace", "peak_memory_bytes", "time"}
)
ROUNDING = 0.01  # of scores, of which most are below 1
_PLACE = re.compile(rb"/[^\"]*/(whole|scratch-\d+)(?=[/\"])")


@dataclass
class Ended:
    """How a process ended: its exit code (negative: the signal), what it said, how long it took."""

    code: int
    said: str
    seconds: float

    @property
    def killed(self) -> bool:
        return self.code == -9

    @property
    def problem(self) -> str | None:
        """What no command may do, whatever happened to it; None for a good end or a refusal."""
        if "Traceback (most recent call last)" in self.said:
            return f"a traceback: {self.said.strip().splitlines()[-1][:200]}"
        if self.code < 0 and not self.killed:
            return f"ended by signal {-self.code}"
        if self.code not in (0, -9) and not any(word in self.said for word in _SAID):
            return f"exit code {self.code} without a word"
        return None


@dataclass
class Workshop:
    """Model, photos and extractor in `folder`, and commands on them in real processes."""

    folder: Path
    steps: int = 12

    def __post_init__(self) -> None:
        self.model = make_tiny_pipeline(self.folder / "model", channels=(16, 32), text_layers=1)
        self.photos = make_photos(self.folder / "photos")
        self.vit = make_vit(self.folder / "vit")
        os.environ["HF_HUB_OFFLINE"] = "1"
        self.run(["--version"])  # starts the server, so that no first command pays for it

    def arguments(self, command: str, root: Path, *more: str) -> list[str]:
        """The command line of one of COMMANDS on the run in `root`."""
        common = ("--out", str(root), "--device", "cpu", *more)
        if command == "protect":
            settings = [f"steps_outer={self.steps}", "steps_inner=1", "prior_pictures=2"]
            settings += ["sampler_steps=2", "learning_rate=1e-3", "path.learning_rate=1e-3"]
            return [
                *(command, str(self.photos), "--class", "dog", "--model", str(self.model)),
                *("--name", NAME, "--checkpoint-every", "1", *_set(settings), *common),
            ]
        if command == "attack":
            settings = [f"steps={self.steps}", "prior_pictures=2", "sampler_steps=2"]
            options = ("--plugin", "dreambooth", "--checkpoint-every", "1", *_set(settings))
            return [command, NAME, *options, *common]
        drawing = ("--images", "6", "--class-images", "4", "--steps", "2", "--sampler", "ddim")
        scoring = ("--metrics", "dino,same-seed", "--weights", f"pocket-vit={self.vit}")
        return [command, NAME, *scoring, *drawing, *common]

    def run(
        self, arguments: Sequence[str], *, kill_after: float | None = None, limit: int = 0
    ) -> Ended:
        """Run to the end, or kill it (SIGKILL) when so many seconds have gone by.

        Args:
            limit: bytes that a file may have, 0 for any.
        """
        log = self.folder / "log.txt"
        log.unlink(missing_ok=True)
        limits = {resource.RLIMIT_FSIZE: (limit, resource.RLIM_INFINITY)} if limit else None
        started = time.monotonic()
        process = Apdm(arguments, log, limits=limits)
        try:
            code = process.wait(PATIENCE if kill_after is None else kill_after)
        except TimeoutError:
            process.kill()
            if kill_after is None:
                raise
            code = process.code if process.code is not None else 1
        return Ended(code, process.out, time.monotonic() - started)

    def finish(self, command: str, root: Path, *more: str) -> Ended:
        """Run `command`, resumed where there is something to resume."""
        arguments = self.arguments(command, root, *more)
        if command == "protect" and (root / NAME).exists():
            arguments.append("--resume")
        return self.run(arguments)


def _set(settings: Sequence[str]) -> tuple[str, ...]:
    return tuple(part for setting in settings for part in ("--set", setting))


def fingerprint(root: Path) -> dict[str, str]:
    """File → digest of its content, without times: two folders with equal ones hold the same."""
    found = {}
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        place = file.relative_to(root).as_posix()
        if "/.tmp-" in f"/{place}":  # what a killed writer left; nobody reads it
            continue
        content = file.read_bytes()
        if file.suffix == ".json":
            with contextlib.suppress(ValueError):
                content = json.dumps(_said(content), sort_keys=True).encode()
        found[place] = hashlib.sha256(content).hexdigest()[:16]
    return found


def alike(first: Path, second: Path) -> bool:
    """Whether two JSON files say the same but for times, and for numbers as rounding leaves them.

    A picture that is drawn again alone, and not among others, is on some processors off by one
    shade in a value or two: their matrix products round otherwise in another batch.
    """
    if not (first.is_file() and second.is_file()):
        return False
    return _alike(_said(first.read_bytes()), _said(second.read_bytes()))


def _alike(first: Any, second: Any) -> bool:
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(_alike(first[k], second[k]) for k in first)
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(_alike, first, second))
    if isinstance(first, float) and isinstance(second, float):
        return math.isclose(first, second, rel_tol=ROUNDING, abs_tol=ROUNDING)
    return bool(first == second)


def differing(first: Mapping[str, str], second: Mapping[str, str]) -> list[str]:
    """Places whose content differs, or that only one of the two has."""
    return sorted(place for place in {*first, *second} if first.get(place) != second.get(place))


def _said(content: bytes) -> Any:
    """A JSON document without times and, since manifests name it, the folder that it lies in."""
    return _timeless(json.loads(_PLACE.sub(b"/ROOT", content)))


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key not in TIMES}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


@contextlib.contextmanager
def small_disk(folder: Path, size_kib: int) -> Iterator[bool]:
    """`folder` on a file system of that size; yields False where this user may not mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    options = ["-t", "tmpfs", "-o", f"size={size_kib}k", "apdm-torture", str(folder)]
    mounted = sys.platform == "linux" and shutil.which("mount") is not None
    if mounted:
        done = subprocess.run(["mount", *options], capture_output=True, check=False)
        mounted = done.returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


def enlarge(folder: Path, size_kib: int) -> None:
    """Give the small disk at `folder` more space, as somebody does who deletes other files."""
    subprocess.run(
        ["mount", "-o", f"remount,size={size_kib}k", str(folder)], check=True, capture_output=True
    )
