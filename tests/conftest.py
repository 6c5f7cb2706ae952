"""No test reads or writes the settings and caches of whoever runs the tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import heed_signals, stopping_signals

# Half a minute and more each: begun last, one of them would keep the other core waiting.
SLOWEST = (
    "harness/test_workers.py",
    "benchmarks/test_paper.py",
    "protection/test_kill.py",
    "protection/test_contract.py",
    "evaluation/test_evaluate.py",
    "torture/test_torture.py",
    "families/test_flow_families.py",
    "evaluation/test_workers.py",
    "families/test_sdxl.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slowest files first; everything else as it was."""
    last = len(SLOWEST)
    here = Path(__file__).parent
    place = {here / name: index for index, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: place.get(item.path, last))


@pytest.fixture(autouse=True, scope="session")
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("APDM_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("APDM_CONFIG", "")
        yield


@pytest.fixture(autouse=True, scope="session")
def no_waiting_for_disks() -> Iterator[None]:
    """Only a power failure would show what `fsync` is for, and it takes milliseconds each time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture
def heeded_signals() -> Iterator[None]:
    """The signals that stop a run are heeded here, and in child processes; see `heed_signals`."""
    before = {number: signal.getsignal(number) for number in stopping_signals()}
    heed_signals()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
