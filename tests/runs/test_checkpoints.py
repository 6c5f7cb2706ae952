"""Checkpoints are whole or not used, whatever happened to the process or the disk."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from apdm_cli.errors import ApdmError
from apdm_cli.randomness import Streams
from apdm_cli.runs.checkpoints import DIGESTS, STATE, TENSORS, latest, save_checkpoint, torn_reason


def state(step: int) -> dict:
    return {
        "theta": {"conv.weight": torch.full((3, 2), float(step))},
        "half": torch.tensor([step + 1 / 3], dtype=torch.bfloat16),
        "streams": Streams(step).state_dict(),
        "step": step,
    }


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_is_loaded(tmp_path):
    streams = Streams(4)
    torch.rand(5, generator=streams.generator("attack/noise"))
    saved = {**state(7), "streams": streams.state_dict(), "tuple": (1, 2.5)}
    save_checkpoint(tmp_path, 7, saved)
    found, torn = latest(tmp_path)
    assert found is not None and found.step == 7 and torn == []
    loaded = found.load()
    assert loaded["tuple"] == (1, 2.5) and loaded["step"] == 7
    assert torch.equal(loaded["theta"]["conv.weight"], saved["theta"]["conv.weight"])
    assert loaded["half"].dtype == torch.bfloat16 and torch.equal(loaded["half"], saved["half"])
    again = Streams(4)
    again.load_state_dict(loaded["streams"])
    drawn = [torch.rand(5, generator=s.generator("attack/noise")) for s in (streams, again)]
    assert torch.equal(*drawn)


def test_no_checkpoint_yet(tmp_path):
    assert latest(tmp_path / "missing") == (None, [])
    assert latest(tmp_path) == (None, [])


def test_the_latest_two_are_kept(tmp_path):
    for step in (5, 10, 15, 20):
        save_checkpoint(tmp_path, step, state(step))
    assert names(tmp_path) == ["step-000015", "step-000020"]


def test_order_is_by_number(tmp_path):
    save_checkpoint(tmp_path, 999_999, state(1))
    save_checkpoint(tmp_path, 1_000_000, state(2))
    found, _ = latest(tmp_path)
    assert found is not None and found.step == 1_000_000


def test_tied_and_strided_tensors(tmp_path):
    buffer = torch.arange(12.0).reshape(3, 4)
    tied = {"a": buffer, "b": buffer, "row": buffer[1], "turned": buffer.T}
    loaded = save_checkpoint(tmp_path, 1, tied).load()
    assert all(torch.equal(loaded[name], tied[name]) for name in tied)


def test_loading_does_not_hold_on_to_the_file(tmp_path):
    checkpoint = save_checkpoint(tmp_path, 1, state(1))
    loaded = checkpoint.load()
    (checkpoint.path / TENSORS).write_bytes(b"\xff" * (checkpoint.path / TENSORS).stat().st_size)
    assert torch.equal(loaded["theta"]["conv.weight"], torch.full((3, 2), 1.0))


def delete(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [delete, cut, empty, flip_a_bit])
@pytest.mark.parametrize("file", [TENSORS, STATE, DIGESTS])
def test_a_torn_one_is_recognized_and_the_one_before_used(tmp_path, file, harm):
    save_checkpoint(tmp_path, 5, state(5))
    save_checkpoint(tmp_path, 10, state(10))
    harm(tmp_path / "step-000010" / file)
    found, torn = latest(tmp_path)
    assert torn == ["step-000010"]
    assert found is not None and found.step == 5 and found.load()["step"] == 5
    reason = torn_reason(tmp_path / "step-000010")
    assert reason is not None and (file in reason or file == DIGESTS)


def test_all_torn(tmp_path):
    for step in (5, 10):
        save_checkpoint(tmp_path, step, state(step))
        delete(tmp_path / f"step-{step:06d}" / STATE)
    assert latest(tmp_path) == (None, ["step-000010", "step-000005"])


def test_a_torn_one_is_replaced_when_its_step_comes_again(tmp_path):
    save_checkpoint(tmp_path, 5, state(5))
    save_checkpoint(tmp_path, 10, state(10))
    cut(tmp_path / "step-000010" / TENSORS)
    save_checkpoint(tmp_path, 10, state(10))
    found, torn = latest(tmp_path)
    assert found is not None and found.step == 10 and torn == []


def test_later_ones_of_a_future_given_up_do_not_push_out_good_ones(tmp_path):
    save_checkpoint(tmp_path, 5, state(5))
    save_checkpoint(tmp_path, 10, state(10))
    cut(tmp_path / "step-000010" / STATE)
    save_checkpoint(tmp_path, 7, state(7))
    assert names(tmp_path) == ["step-000005", "step-000007"]


def test_an_error_leaves_nothing_half_written(tmp_path):
    save_checkpoint(tmp_path, 5, state(5))
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path, 10, {"x": object()})
    assert names(tmp_path) == ["step-000005"]


def script(body: str, *arguments: object) -> subprocess.Popen:
    head = "import sys, torch\nfrom pathlib import Path\n"
    head += "from apdm_cli.runs import checkpoints\nfolder = Path(sys.argv[1])\n"
    command = [sys.executable, "-c", head + body, *map(str, arguments)]
    root = Path(__file__).parents[2]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX limits")
def test_a_full_disk_is_one_message(tmp_path):
    save_checkpoint(tmp_path, 5, state(5))
    body = """
import resource
from apdm_cli.errors import ApdmError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    checkpoints.save_checkpoint(folder, 10, {"x": torch.zeros(100_000)})
except ApdmError as error:
    print("REFUSED", error)
"""
    process = script(body, tmp_path)
    output = process.communicate()[0].decode()
    assert "REFUSED" in output and "step-000010 cannot be written" in output, output
    assert names(tmp_path) == ["step-000005"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.parametrize("moment", ["tensors", "state", "digests", "rename", "prune"])
def test_sigkill_in_the_middle_of_writing(tmp_path, moment):
    """The process stops itself at a chosen moment of the second checkpoint, and is killed there."""
    body = """
import os, signal
from apdm_cli.runs import atomic
moment = sys.argv[2]
for step in (5, 10):
    checkpoints.save_checkpoint(folder, step, {"x": torch.full((1000,), float(step)), "step": step})

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

write = checkpoints.save_file
def half_a_file(tensors, path):
    write(tensors, path)
    os.truncate(path, 900)
    die()

if moment == "tensors": checkpoints.save_file = half_a_file
if moment == "state": checkpoints.json.dumps = die
if moment == "digests": checkpoints._sha256 = die
if moment == "rename": atomic.os.replace = die
if moment == "prune": checkpoints._prune = die
checkpoints.save_checkpoint(folder, 15, {"x": torch.full((1000,), 15.0), "step": 15})
"""
    process = script(body, tmp_path, moment)
    output = process.communicate()[0].decode()
    assert process.returncode == -signal.SIGKILL, output
    expected = 15 if moment == "prune" else 10
    found, torn = latest(tmp_path)
    assert found is not None and found.step == expected and torn == []
    assert torch.equal(found.load()["x"], torch.full((1000,), float(expected)))
    # The next process clears away what the killed one left.
    save_checkpoint(tmp_path, 20, state(20))
    assert names(tmp_path) == [f"step-{expected:06d}", "step-000020"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_sigkill_at_any_moment(tmp_path):
    """Kill a process that does nothing but write checkpoints; what is found is always whole."""
    body = """
first = int(sys.argv[2])
for step in range(first, first + 100_000):
    state = {"x": torch.full((200_000,), float(step)), "step": step}
    checkpoints.save_checkpoint(folder, step, state)
    print(step, flush=True)
"""
    done = 0
    for delay in (0.0, 0.013):
        process = script(body, tmp_path, done + 1)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        time.sleep(delay)
        process.kill()
        lines += process.stdout.readlines()
        process.wait()
        reported = max(int(line) for line in lines if line.endswith(b"\n"))
        found, torn = latest(tmp_path)
        assert found is not None and torn == []
        assert found.step in (reported, reported + 1)
        assert torch.equal(found.load()["x"], torch.full((200_000,), float(found.step)))
        done = found.step


def test_an_unwritable_folder_is_one_message(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ApdmError, match="cannot be written") as caught:
        save_checkpoint(tmp_path / "file" / "checkpoints", 1, state(1))
    assert caught.value.hint
