"""Several processes drain one queue of cells: each cell is done once, and nobody fails."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from apdm_cli.runs.cells import Cell, CellState
from tests.harness.conftest import Place
from tests.harness.test_attack_command import attack, rows
from tests.processes import Apdm

posix = pytest.mark.skipif(sys.platform == "win32", reason="folders are not locked there")

# An attack that writes down who trained which model, and halts at its second step until it may go.
PLUGIN = """
import os, time
from pathlib import Path
from apdm_attacks.dreambooth import DreamBooth
from apdm_cli.plugin import hookimpl
FOLDER = Path({folder!r})
class Halting(DreamBooth):
    '''Halts.'''
    name = 'halting'
    def trainable(self, model, subject, config):
        with (FOLDER / 'log').open('a') as log:
            log.write(f'{{os.getpid()}} {{model.ref.digest}}\\n')
        return super().trainable(model, subject, config)
    def learning_rate(self, step, config):
        if step == 1:
            (FOLDER / f'halted-{{os.getpid()}}').touch()
            while not (FOLDER / 'go').exists():
                time.sleep(0.02)
        return config.learning_rate
@hookimpl
def apdm_attacks():
    return [Halting()]
"""


class Processes:
    """`apdm attack --plugin halting` in processes of their own."""

    def __init__(self, place: Place, folder: Path) -> None:
        self.place, self.folder = place, folder
        (folder / "plugin.py").write_text(PLUGIN.format(folder=str(folder)))
        self.all: list[Apdm] = []

    def start(self, *arguments: str) -> Apdm:
        command = ["attack", "run", "--out", str(self.place.root), "--plugin", "halting"]
        command += ["--plugin-file", str(self.folder / "plugin.py"), "--device", "cpu", "--json"]
        for setting in ("steps=3", "prior_pictures=1", "sampler_steps=1"):
            command += ["--set", setting]
        said = self.folder / f"said-{len(self.all)}"
        self.all.append(Apdm([*command, *arguments], said, apart=True))
        return self.all[-1]

    def wait_until_halted(self, process: Apdm) -> None:
        process.wait_until((self.folder / f"halted-{process.pid}").exists)

    def go(self) -> None:
        (self.folder / "go").touch()

    @property
    def trained(self) -> list[str]:
        """Digest of the model of every training that began."""
        return [line.split()[1] for line in (self.folder / "log").read_text().splitlines()]


def _finished(process: Apdm) -> tuple[list[str], str]:
    """The statuses of its cells and what it said, of a process that ended well."""
    assert process.wait() == 0, process.err
    return [cell["status"] for cell in json.loads(process.out)["cells"]], process.err


@pytest.fixture
def processes(place: Place, tmp_path: Path) -> Any:
    made = Processes(place, tmp_path)
    yield made
    for process in made.all:
        process.kill()


@posix
def test_two_processes_do_every_cell_once(processes: Processes) -> None:
    first = processes.start()
    processes.wait_until_halted(first)  # it holds the original's cell
    second = processes.start()
    processes.wait_until_halted(second)  # so this one took the next
    processes.go()
    statuses, said = zip(*(_finished(process) for process in (first, second)), strict=True)
    assert sorted(statuses) == [["cached", "done"], ["done", "cached"]]
    assert len(processes.trained) == len(set(processes.trained)) == 2
    assert "failed" not in "".join(said)


@posix
def test_a_killed_process_leaves_its_cell_to_the_one_that_waits(processes: Processes) -> None:
    first = processes.start("--no-control", "--checkpoint-every", "1")
    processes.wait_until_halted(first)
    second = processes.start("--no-control", "--checkpoint-every", "1")
    # The other one is halted until this was said.
    second.wait_until(lambda: "another apdm process is working on it" in second.err)
    assert "Waiting for halting" in second.err
    first.kill()
    processes.go()
    assert _finished(second)[0] == ["done"]
    (cell,) = (processes.place.root / "run" / "attacks").iterdir()
    log = [json.loads(line) for line in (cell / "losses.jsonl").read_text().splitlines()]
    assert [row["index"] for row in log] == [0, 1, 2]


@posix
def test_a_cell_that_is_held_is_left_and_looked_at_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apdm_cli.harness import execute

    options = ("--plugin", "dreambooth", "--json")
    (control, _) = rows(attack(place, *options))
    shutil.rmtree(control["path"])
    holder = Cell(place.root / "_control", control["cell"])
    holder.claim()

    def until_the_other_has_done_it(waiting: bool, signals: Any) -> None:
        if waiting:
            holder.let_go()
            monkeypatch.undo()
            assert [row["status"] for row in rows(attack(place, *options))] == ["done", "cached"]

    monkeypatch.setattr(execute, "_pause", until_the_other_has_done_it)
    result = attack(place, *options)
    assert [row["status"] for row in rows(result)] == ["cached", "cached"]
    assert (
        "Waiting for dreambooth" in result.stderr and "original, seed 0: another" in result.stderr
    )


@posix
def test_a_failure_elsewhere_is_told_and_not_repeated(place: Place, tmp_path: Path) -> None:
    """A cell that failed since this command began is not tried again by it."""
    plugin = tmp_path / "failing.py"
    plugin.write_text(
        "from apdm_attacks.dreambooth import DreamBooth\n"
        "from apdm_cli.plugin import hookimpl\n"
        "class Failing(DreamBooth):\n"
        "    '''Raises, and lets the other cell of the run fail elsewhere.'''\n"
        "    name = 'failing'\n"
        "    def trainable(self, model, subject, config):\n"
        "        from apdm_cli.runs.cells import Cell\n"
        f"        folder = __import__('pathlib').Path({str(place.root)!r}) / 'run' / 'attacks'\n"
        "        if not folder.exists():\n"
        "            name = OTHER.read_text()\n"
        "            cell = Cell(folder, name)\n"
        "            cell.begin()\n"
        "            cell.fail(RuntimeError('elsewhere'))\n"
        "        raise RuntimeError('here')\n"
        f"OTHER = __import__('pathlib').Path({str(tmp_path / 'other')!r})\n"
        "@hookimpl\n"
        "def apdm_attacks():\n"
        "    return [Failing()]\n"
    )
    options = ("--plugin-file", str(plugin), "--plugin", "failing", "--json")
    first = rows(attack(place, *options, "--no-control"))
    (tmp_path / "other").write_text(first[0]["cell"])
    shutil.rmtree(place.root / "run" / "attacks")
    found = rows(attack(place, *options))
    assert [row["error"] for row in found] == ["RuntimeError: here", "elsewhere"]
    # The next command tries again.
    assert [row["error"] for row in rows(attack(place, *options))] == ["RuntimeError: here"] * 2


@posix
def test_a_rerun_takes_what_another_worker_ran_again_meanwhile(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apdm_cli.harness import execute

    attack(place, "--plugin", "dreambooth", "--no-control")
    plain = execute.CellWork.do
    done = []

    def counted(self: Any, planned: Any, folder: Path) -> Any:
        done.append(planned.arm)
        if len(done) == 1:  # while the original is attacked, another worker reruns the protected
            rerun = attack(place, "--plugin", "dreambooth", "--no-control", "--rerun", "--json")
            assert rows(rerun)[0]["status"] == "done"
        return plain(self, planned, folder)

    monkeypatch.setattr(execute.CellWork, "do", counted)
    cells = rows(attack(place, "--plugin", "dreambooth", "--rerun", "--json"))
    assert [row["status"] for row in cells] == ["done", "cached"]
    assert done == ["original", "protected"]


@posix
def test_a_cell_finished_between_looking_and_claiming_is_not_done_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Cell.claim

    def late(self: Cell) -> None:
        monkeypatch.setattr(Cell, "claim", plain)
        attack(place, "--plugin", "dreambooth", "--no-control")
        plain(self)

    monkeypatch.setattr(Cell, "claim", late)
    (cell,) = rows(attack(place, "--plugin", "dreambooth", "--no-control", "--json"))
    assert cell["status"] == "cached"
    folder = place.root / "run" / "attacks"
    assert [path.name for path in folder.iterdir()] == [cell["cell"]]
    assert Cell(folder, cell["cell"]).state is CellState.FINISHED
