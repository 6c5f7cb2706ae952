"""Several ranks of one protection: the mean of their gradients, one θ, and an end for all of them.

Ranks are real processes that meet through gloo.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from apdm_cli.cli.main import main
from apdm_cli.devices import devices_of_ranks
from apdm_cli.errors import ApdmError, UsageError
from apdm_cli.protection import trajectories
from apdm_cli.randomness import Streams
from apdm_cli.runs import early
from apdm_cli.runs.launched import Launched, launched
from apdm_cli.runs.ranks import Ranks, meeting_in
from tests.processes import server
from tests.protection import toys
from tests.protection.commands import Desk, same
from tests.protection.test_kill import checkpoint_of

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="processes of POSIX"),
    pytest.mark.usefixtures("heeded_signals"),
]
SETTINGS = (
    "steps_outer=6",
    "steps_inner=1",
    "attackers.kind=persistent",
    "attackers.count=2",
    "attackers.ages=[2, 4]",
    "average=0.9",
)
OPTIONS = tuple(part for setting in SETTINGS for part in ("--set", setting))
OFTEN = ("--checkpoint-every", "1")
PATIENCE = 240.0  # seconds, for a machine that is busy with other things
TWO = ("--ranks", "2")
REFUSED = "was begun with 2 ranks and cannot go on with 1"


def apdm(arguments: list[str], environment: dict[str, str], log: Path) -> None:
    """In a process of its own: the command, whose own ranks need no import either."""
    os.environ.update(environment)
    early.START = "fork"
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    main(arguments)


class Office(Desk):
    """A desk from which processes are started."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.all: list[BaseProcess] = []

    def start(
        self, name: str, *more: str, photos: Path | None = None, **environment: str
    ) -> BaseProcess:
        """`apdm protect` in a process."""
        arguments = self.arguments(name, *OPTIONS, *more, photos=photos)
        log = self.log(name, int(environment.get("RANK", 0)))
        process = server().Process(target=apdm, args=(arguments, environment, log))
        self.all.append(process)
        process.start()
        return process

    def launch(
        self, name: str, *more: str, photos: Sequence[Path | None] = (None, None)
    ) -> list[BaseProcess]:
        """Two ranks, as a launcher starts them; they may see other photos."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        return [
            self.start(
                name,
                *more,
                photos=seen,
                RANK=rank,
                LOCAL_RANK=rank,
                WORLD_SIZE="2",
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=port,
            )
            for rank, seen in zip("01", photos, strict=True)
        ]

    def manifest(self, name: str) -> dict[str, Any]:
        """manifest.json of a run."""
        found: dict[str, Any] = json.loads((self.runs / name / "manifest.json").read_text())
        return found

    def log(self, name: str, rank: int = 0) -> Path:
        """What a process says."""
        return self.folder / f"{name}-{rank}.log"

    def said(self, name: str, rank: int = 0) -> str:
        """The same as one line."""
        return " ".join(self.log(name, rank).read_text().split())


def ended(*processes: BaseProcess) -> list[int | None]:
    for process in processes:
        process.join(PATIENCE)
    return [process.exitcode for process in processes]


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    """With one finished run of two ranks, `whole`."""
    made = Office(tmp_path_factory.mktemp("office"))
    assert ended(made.start("whole", *TWO)) == [0], made.said("whole")
    yield made
    for process in made.all:
        if process.is_alive():
            process.kill()
        process.join()


TOYS: dict[str, Any] = {
    "steps_outer": 3,
    "steps_inner": 2,
    "average": 0.5,
    "attackers": {"kind": "persistent", "ages": [3, 5], "count": 2},
}


def walk(folder: Path, number: int) -> None:
    """In a process of its own: the toys' loop as one of two ranks."""
    with meeting_in(folder, number, 2, torch.device("cpu"), lambda: None) as ranks:
        start = toys.denoiser()
        loop = toys.bilevel(start, toys.settings(**TOYS), streams=Streams(0, ranks.own))
        loop.ranks = ranks
        for _ in loop.prepare():
            pass
        steps = [
            (toys.gradients(start.network), toys.weights(start.network)) for _ in loop.iterate()
        ]
        ranks.require_same(loop.weights)
        torch.save(steps, folder / f"{number}.pt")
        with torch.no_grad():
            loop.weights[0].view(-1)[0] += number
        try:
            ranks.average(loop.weights)
        except ApdmError as error:
            (folder / f"{number}.txt").write_text(error.what)


def test_the_gradient_is_the_mean_over_what_one_process_walks(tmp_path: Path) -> None:
    """Bit for bit, as is θ in both; and weights that are not the same are refused."""
    both = [server().Process(target=walk, args=(tmp_path, number)) for number in (0, 1)]
    for process in both:
        process.start()
    assert ended(*both) == [0, 0]
    first, second = (torch.load(tmp_path / f"{number}.pt") for number in (0, 1))

    starts = [toys.denoiser(), toys.denoiser()]
    loops = [
        toys.bilevel(start, toys.settings(**TOYS), streams=Streams(0, own))
        for start, own in zip(starts, ("", "rank 1/"), strict=True)
    ]
    for loop in loops:
        for _ in loop.prepare():
            pass
    for index in range(3):
        for loop in loops:
            loop.outer_optimizer.zero_grad(set_to_none=False)
            loop._protective_gradients(index)
        own = [toys.gradients(start.network) for start in starts]
        assert not torch.equal(*own)
        for weights in zip(*(loop.weights for loop in loops), strict=True):
            gradients = [w.grad for w in weights if w.grad is not None]
            mean = (gradients[0] + gradients[1]) / 2
            for gradient in gradients:
                gradient.copy_(mean)
        assert torch.equal(toys.gradients(starts[0].network), first[index][0])
        for loop in loops:
            loop.outer_optimizer.step()
        if index < 2:  # afterwards comes the average
            assert torch.equal(toys.weights(starts[0].network), first[index][1])
    assert all(
        torch.equal(*pair)
        for step in zip(first, second, strict=True)
        for pair in zip(*step, strict=True)
    )
    said = {(tmp_path / f"{number}.txt").read_text() for number in (0, 1)}
    assert said == {
        "The weights of rank 1 are no longer those of rank 0, so that their gradients have no mean"
    }


def test_one_alone_walks_elsewhere(office: Office) -> None:
    assert office.protect("alone", *OPTIONS, "--ranks", "1") == 0
    assert not same(office.weights("alone"), office.weights("whole"))
    assert [office.manifest(name)["ranks"] for name in ("alone", "whole")] == [1, 2]


def test_the_adapters_of_all_ranks_begin_alike(office: Office) -> None:
    options = (*TWO, "--set", "train=adapter", "--set", "steps_outer=1")
    assert ended(office.start("adapter", *options)) == [0], office.said("adapter")


def test_a_signal_to_any_rank_stops_all_and_they_go_on_exactly(
    office: Office, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = office.launch("stopped", *OFTEN)
    waiting = checkpoint_of(office, "stopped", 2)
    while not waiting():
        assert second.is_alive(), office.said("stopped", 1)
    os.kill(second.pid or 0, signal.SIGTERM)
    assert ended(first, second) == [143, 143]
    said = office.said("stopped")
    assert "was stopped after step" in said and "--ranks=2 --resume" in said
    assert office.said("stopped", 1) == ""
    checkpoints = office.runs / "stopped" / "checkpoints"
    assert {path.name for path in checkpoints.glob("step-*")} == {
        path.name for path in checkpoints.glob("rank-1/step-*")
    }
    assert office.protect("stopped", *OPTIONS, "--resume") == 1
    said = " ".join(capsys.readouterr().err.split())
    assert REFUSED in said and "Use --ranks 2" in said
    # What one rank has lost, none goes on from.
    latest = max(checkpoints.glob("rank-1/step-*"))
    (latest / "tensors.safetensors").write_bytes(b"")
    assert ended(office.start("stopped", *TWO, "--resume")) == [0], office.said("stopped")
    before = int(latest.name[5:]) - 1
    assert f"Checkpoint {latest.name} is damaged" in office.said("stopped")
    assert f"Going on after step {before}." in office.said("stopped")
    assert same(office.weights("whole"), office.weights("stopped"))


def test_a_rank_that_dies_ends_the_others_and_is_named(office: Office) -> None:
    command = office.start("orphan", *TWO, *OFTEN)
    waiting = checkpoint_of(office, "orphan", 2)
    while not waiting():
        assert command.is_alive(), office.said("orphan")
    os.kill(_helper(command.pid or 0), signal.SIGKILL)
    assert ended(command) == [1]
    assert "rank 1 (cpu) ended early (signal 9), so the others ended too." in office.said("orphan")
    assert "What was done is kept: --resume goes on with it." in office.said("orphan")
    # A launcher starts the same ranks, of which the first one alone talks.
    assert ended(*office.launch("orphan", "--resume")) == [0, 0], office.said("orphan")
    assert "is ready after" in office.said("orphan") and office.said("orphan", 1) == ""
    assert same(office.weights("whole"), office.weights("orphan"))
    logs = [(office.runs / name / "metrics.jsonl").read_bytes() for name in ("whole", "orphan")]
    assert logs[0] == logs[1] and len(logs[0].splitlines()) == 6


def _helper(command: int) -> int:
    """The process that `command` has started, beside Python's own that keeps track."""
    table = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True
    )
    rows = [line.split(None, 2) for line in table.stdout.splitlines()]
    (found,) = [
        int(row[0]) for row in rows if int(row[1]) == command and "resource_tracker" not in row[2]
    ]
    return found


def test_a_rank_that_fails_says_why(office: Office) -> None:
    """The error of one ends both, with one sentence each."""
    other = office.folder / "other"
    other.mkdir()
    for photo in sorted(office.photos.iterdir())[:2]:
        (other / photo.name).write_bytes(photo.read_bytes())
    first, second = office.launch("apart", photos=(None, other))
    assert ended(first, second) == [1, 1]
    assert "photo 2.png is missing now" in office.said("apart", 1)
    assert "Another rank has ended" in office.said("apart")
    assert not (office.runs / "apart").exists()


def test_what_a_rank_is_given_can_be_sent(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    def accompanied(task: Any, *_: Any) -> Any:
        sent.append(pickle.loads(pickle.dumps(task)))
        raise ApdmError("that is all")

    monkeypatch.setattr(trajectories, "accompanied", accompanied)
    assert office.protect("unsent", *TWO) == 1
    (task,) = sent
    assert (task.method, task.request.ranks, task.settings["steps_outer"]) == ("apdm", 2, 4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--ranks", "2", "--method", "naive"), "The protection naive is made by one process."),
        (("--ranks", "5000"), "--ranks 5000 is more than the"),
        (("--device", "cpu,cpu", "--ranks", "3"), "--ranks 3 is not the number of devices"),
        (("--device", "cpu,nonsense"), "--device nonsense: no such device."),
    ],
)
def test_ranks_that_cannot_be_meant(
    options: tuple[str, ...], words: str, office: Office, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [word for word in office.arguments("wrong") if word != "--set"]
    arguments = [word for word in arguments if "=" not in word]
    with pytest.raises(SystemExit) as refused:
        main([*arguments, *options])
    assert refused.value.code == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not (office.runs / "wrong").exists()


def test_every_rank_has_a_card_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    found = [str(device) for device in devices_of_ranks("auto", 2)]
    assert found == ["cuda:0", "cuda:1"]
    assert [device.index for device in devices_of_ranks("cuda:2,cuda:0", None)] == [2, 0]
    for names, ranks in [("cuda", 4), ("cuda:1", 2), ("cuda:1,cuda:1", 2), ("cuda:1,cpu", 2)]:
        with pytest.raises(UsageError):
            devices_of_ranks(names, ranks)


def test_what_a_launcher_says() -> None:
    where = {"MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    assert launched({**where, "RANK": "0", "WORLD_SIZE": "1"}) is None
    assert launched({"RANK": "1", "WORLD_SIZE": "2"}) is None
    found = launched({**where, "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"})
    assert found == Launched(5, 8, 1) and not found.leads
    with pytest.raises(UsageError, match="RANK=8"):
        launched({**where, "RANK": "8", "WORLD_SIZE": "8"})


def launch(folder: Path, *options: str) -> None:
    """In a process of its own: `accelerate launch` of a script that writes down who it is."""
    from accelerate.commands import launch as accelerate

    script = folder / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from apdm_cli.errors import UsageError\n"
        "from apdm_cli.runs.launched import launched\n"
        "try:\n"
        "    found = launched()\n"
        "    name = str(found.number)\n"
        "    words = f'{found.number} of {found.count}, {found.local} here'\n"
        "except UsageError as error:\n"
        "    name, words = 'refused', f'{error.what} {error.hint}'\n"
        f"(Path({str(folder)!r}) / f'{{name}}.txt').write_text(words)\n"
    )
    parser = accelerate.launch_command_parser()
    port = ("--main_process_port", "0")
    accelerate.launch_command(parser.parse_args([*options, *port, str(script)]))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("--multi_gpu", {"0": "0 of 2, 0 here", "1": "1 of 2, 1 here"}),
        ("--cpu", {"refused": "has started one without a number.*--multi_gpu --num_processes N"}),
    ],
)
def test_what_accelerate_starts(how: str, words: dict[str, str], tmp_path: Path) -> None:
    """Two ranks, as torchrun would; or one process in the place of two, which says so."""
    pytest.importorskip("accelerate")
    process = server().Process(target=launch, args=(tmp_path, how, "--num_processes", "2"))
    process.start()
    assert ended(process) == [0]
    found = {file.stem: file.read_text() for file in tmp_path.glob("*.txt")}
    assert found.keys() == words.keys()
    assert all(re.search(words[name], found[name]) for name in words), found


def test_a_plan_says_what_ranks_are_known_to_bring(
    office: Office, capsys: pytest.CaptureFixture[str]
) -> None:
    assert office.protect("plan", *TWO, "--dry-run", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["ranks"] == 2
    assert plan["lines"][-1].startswith("Ranks: 2, each of which needs this memory")


def test_streams_are_a_ranks_own_unless_they_are_common() -> None:
    def drawn(streams: Streams, *, common: bool = False) -> list[float]:
        return torch.rand(3, generator=streams.generator("noise", common=common)).tolist()

    first, second = Streams(0, Ranks(0, 2).own), Streams(0, Ranks(1, 2).own)
    assert drawn(first) == drawn(Streams(0)) != drawn(second)
    assert drawn(Streams(0), common=True) == drawn(second, common=True)
    state = second.state_dict()
    again = Streams(0, Ranks(1, 2).own)
    again.load_state_dict(state)
    assert drawn(again) == drawn(second)
