"""What a run asks of the machine: its memory, and the same numbers twice."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from apdm_cli.errors import ApdmError
from apdm_cli.protection.machine import deterministic_algorithms, memory_hint, peak_memory, peaks

CPU = torch.device("cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_the_peak_of_the_process_is_in_bytes() -> None:
    lines = Path("/proc/self/status").read_text().splitlines()
    (highest,) = (int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    # Each core counts some pages by itself, so that both numbers are a little behind.
    assert 0.99 * highest <= peak_memory(CPU) <= machine


def test_the_peak_on_other_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    monkeypatch.setattr(sys, "platform", "darwin")  # which counts bytes, where Linux counts KiB
    assert used <= peak_memory(CPU) < 2 * used
    monkeypatch.setattr(sys, "platform", "win32")
    assert peak_memory(CPU) == 0


def test_the_peaks_of_a_card_are_what_tensors_held_and_what_was_reserved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        torch.cuda, "max_memory_allocated", lambda device: 12345 + (device.index or 0)
    )
    monkeypatch.setattr(
        torch.cuda, "max_memory_reserved", lambda device: 23456 + (device.index or 0)
    )
    card = torch.device("cuda", 1)
    assert peak_memory(card) == 12346
    assert peaks(card) == {"peak_memory_bytes": 12346, "peak_reserved_bytes": 23457}
    assert list(peaks(CPU)) == ["peak_memory_bytes"], "a process reserves nothing"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: not enough memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("CUDA error: out of memory"),
    ],
)
def test_too_little_memory_says_what_to_try(error: Exception) -> None:
    with pytest.raises(ApdmError, match="not enough memory") as caught, memory_hint(["--one 1"]):
        raise error
    assert caught.value.hint.startswith("Add --one 1. apdm protect --dry-run")
    assert caught.value.__cause__ is error


def test_what_to_try_is_said_in_its_order() -> None:
    with pytest.raises(ApdmError) as caught, memory_hint(["--one", "--two", "--three"]):
        raise MemoryError
    first, second, _ = caught.value.hint.split(". ")
    assert first == "Add --one" and second.endswith("add --two, then --three")
    with pytest.raises(ApdmError) as caught, memory_hint([]):
        raise MemoryError
    assert "smaller model" in caught.value.hint and "Add" not in caught.value.hint


def test_a_real_allocation_that_fails_is_one_of_them() -> None:
    with pytest.raises(ApdmError, match="not enough memory"), memory_hint([]):
        torch.empty(2**55, dtype=torch.uint8)


def test_other_errors_pass() -> None:
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError) as caught, memory_hint([]):
        raise error
    assert caught.value is error


def state() -> tuple[bool, bool]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )


@pytest.fixture
def restored() -> Iterator[None]:
    strict, warns = state()
    yield
    torch.use_deterministic_algorithms(strict, warn_only=warns)


@pytest.mark.parametrize("before", [(False, False), (True, True), (True, False)])
def test_determinism_lasts_as_long_as_the_block(
    restored: None, monkeypatch: pytest.MonkeyPatch, before: tuple[bool, bool]
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")  # the user's own is kept
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    with pytest.raises(ZeroDivisionError), deterministic_algorithms(True):
        assert state() == (True, True)
        raise ZeroDivisionError
    assert state() == before
    with deterministic_algorithms(False):
        assert state() == before


def test_determinism_gives_cublas_its_workspace(
    restored: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with deterministic_algorithms(True):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    with deterministic_algorithms(True):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
