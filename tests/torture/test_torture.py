"""A short `make torture`: every scene, few rounds."""

from __future__ import annotations

import random
import sys

import pytest

from tests.torture.scenes import Torture
from tests.torture.workshop import COMMANDS, Workshop

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")


@pytest.fixture(scope="module")
def torture(tmp_path_factory: pytest.TempPathFactory) -> Torture:
    shop = Workshop(tmp_path_factory.mktemp("torture"), steps=6)
    found = Torture(shop, random.Random(0), print)
    found.uninterrupted()
    return found


def failures(torture: Torture) -> list[str]:
    return [
        f"{one.kind}: {failure}" for one in torture.tallies.values() for failure in one.failures
    ]


@pytest.mark.parametrize("command", COMMANDS)
def test_killed_at_any_moment(torture: Torture, command: str) -> None:
    torture.kill(command, times=3)
    assert not failures(torture)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk(torture: Torture, command: str) -> None:
    torture.full_disk(command)
    assert not failures(torture)
    notes = torture.tally(f"full disk in {command}").notes
    assert notes == {"ran out of space": 1} or any("nothing can be mounted" in n for n in notes)


def test_damaged_files(torture: Torture) -> None:
    for _ in range(4):
        torture.damage()
    assert not failures(torture)


def test_hostile_photos(torture: Torture) -> None:
    torture.photos()
    assert not failures(torture)


def test_the_comparison_sees_a_single_bit(torture: Torture) -> None:
    from tests.torture.workshop import differing, fingerprint

    root = torture.copy_of(torture.whole["attack"])
    file = next(root.rglob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    changed = differing(fingerprint(torture.whole["attack"]), fingerprint(root))
    assert changed == [file.relative_to(root).as_posix()]
