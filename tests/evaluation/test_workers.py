"""`apdm evaluate --workers`: the same pictures, each drawn once, whatever happens to a worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.evaluation.material import Bench, drawn_and_scored

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="folders are not locked there")

# Loaded by every worker: it writes down who draws what, and halts before the first picture.
PLUGIN = """
import os, time
from pathlib import Path
from apdm_cli.diffusion import shared_drawing
from apdm_cli.plugin import hookimpl
FOLDER = Path({folder!r})
plain = shared_drawing.draw_pictures
def halting(model, files, *arguments, **values):
    with (FOLDER / 'log').open('a') as log:
        log.write(''.join(f'{{os.getpid()}} {{file}}\\n' for file in files))
    (FOLDER / f'halted-{{os.getpid()}}').touch()
    while not (FOLDER / 'go').exists():
        time.sleep(0.02)
    return plain(model, files, *arguments, **values)
shared_drawing.draw_pictures = halting
@hookimpl
def apdm_attacks():
    return []
"""


class Command:
    """`apdm evaluate` on the runs of `bench`, in processes of its own that share the drawing."""

    def __init__(self, bench: Bench, folder: Path, *sharing: str) -> None:
        self.bench, self.folder, self.sharing = bench, folder, sharing or ("--workers", "2")
        (folder / "plugin.py").write_text(PLUGIN.format(folder=str(folder)))
        self.start()

    def start(self) -> None:
        for path in self.folder.glob("halted-*"):
            path.unlink()
        command = [sys.executable, "-m", "apdm_cli.cli.main", "evaluate", "run", *self.sharing]
        command += ["--out", str(self.bench.root), "--device", "cpu", "--metrics", "dino"]
        command += ["--weights", f"pocket-vit={self.bench.vit}", "--sampler", "ddim"]
        command += ["--images", "4", "--class-images", "3", "--steps", "2", "--json"]
        command += ["--plugin-file", str(self.folder / "plugin.py")]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def helper(self) -> int:
        """The id of the second worker, once both halt in a batch."""
        while True:
            found = {int(path.name.split("-")[1]) for path in self.folder.glob("halted-*")}
            if len(found) == 2:
                (number,) = found - {self.process.pid}
                return number
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.05)

    def go(self) -> None:
        (self.folder / "go").touch()

    def drawn(self) -> list[tuple[str, str]]:
        """Who drew which file, in the order in which they were begun."""
        rows = (self.folder / "log").read_text().splitlines()
        return [(number, file) for number, _, file in (row.partition(" ") for row in rows)]


@pytest.fixture
def command(bench: Bench, tmp_path: Path) -> Iterator[Command]:
    made = Command(bench, tmp_path)
    yield made
    if made.process.poll() is None:
        made.process.kill()
        made.process.communicate()


def _temporary(root: Path) -> list[Path]:
    return list(root.rglob(".tmp-*"))


def test_two_workers_draw_every_picture_once_and_give_the_bytes_of_one(
    alone: dict[str, bytes], command: Command
) -> None:
    helper = command.helper()
    command.go()
    _, said = command.process.communicate()
    assert command.process.returncode == 0, said
    assert "worker" not in said
    assert drawn_and_scored(command.bench.root) == alone
    drawn = command.drawn()
    assert len({file for _, file in drawn}) == len(drawn) == len(alone) - 1
    assert {number for number, _ in drawn} == {str(helper), str(command.process.pid)}
    assert not _temporary(command.bench.root)


def test_what_a_killed_worker_had_begun_is_drawn_by_the_other(
    alone: dict[str, bytes], command: Command
) -> None:
    helper = command.helper()
    begun = {file for number, file in command.drawn() if number == str(helper)}
    os.kill(helper, signal.SIGKILL)
    command.go()
    _, said = command.process.communicate()
    assert command.process.returncode == 0, said
    assert "worker 2 (cpu) ended early (signal 9)" in " ".join(said.split())
    assert drawn_and_scored(command.bench.root) == alone
    own = {file for number, file in command.drawn() if number == str(command.process.pid)}
    assert begun and begun <= own


def test_an_interrupt_ends_both_and_leaves_nothing_unfinished(command: Command) -> None:
    helper = command.helper()
    os.kill(command.process.pid, signal.SIGINT)
    command.process.communicate()
    assert command.process.returncode == 130
    with pytest.raises(ProcessLookupError):
        os.kill(helper, 0)
    assert not _temporary(command.bench.root)
