"""Which device and dtype a word means, on machines with and without accelerators."""

from __future__ import annotations

import pytest
import torch

from apdm_cli.devices import (
    Arriving,
    devices_of_ranks,
    limit_threads,
    resolve_device,
    resolve_devices,
    resolve_dtype,
)
from apdm_cli.errors import UsageError


def pretend(
    monkeypatch: pytest.MonkeyPatch,
    cards: int,
    mps: bool = False,
    capability: tuple[int, int] = (9, 0),
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cards > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cards", "mps", "expected"), [(0, False, "cpu"), (0, True, "mps"), (2, False, "cuda:0")]
)
def test_auto_takes_the_best_there_is(
    monkeypatch: pytest.MonkeyPatch, cards: int, mps: bool, expected: str
) -> None:
    pretend(monkeypatch, cards, mps)
    assert resolve_device("auto") == torch.device(expected)


def test_named_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, cards=2)
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("cuda") == torch.device("cuda:0")
    assert resolve_device("cuda:1") == torch.device("cuda:1")


def test_the_card_of_a_process_is_its_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, cards=3)
    made: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: made.append(str(device)))
    resolve_device("cuda:1")
    resolve_devices("cuda:2,cuda:0,cuda:1")
    devices_of_ranks("cuda:1,cuda:2", None)
    assert made == ["cuda:1", "cuda:2", "cuda:1"]
    resolve_device("cuda")  # current already, and CUDA need not be started
    resolve_device("cpu")
    assert len(made) == 3
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    resolve_device("cuda:0")
    assert made[3:] == ["cuda:0"]


def test_numbers_arrive_from_the_card_that_they_are_on(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[object] = []

    class Event:
        def record(self, stream: object = None) -> None:
            waited.append(stream)

    class OnACard(torch.Tensor):
        is_cuda, device = True, torch.device("cuda", 1)

    whole = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *shape, pin_memory, **kind: whole(*shape, **kind))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    Arriving(torch.ones(2).as_subclass(OnACard))
    assert waited == ["stream of cuda:1"]


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "CPU", "cpu:0", ""])
def test_words_that_name_no_device(name: str) -> None:
    with pytest.raises(UsageError, match="no such device"):
        resolve_device(name)


def test_a_device_that_is_not_here_says_what_is(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, cards=0)
    with pytest.raises(UsageError, match=r"no CUDA card here.*cpu"):
        resolve_device("cuda")
    with pytest.raises(UsageError, match="Metal"):
        resolve_device("mps")
    pretend(monkeypatch, cards=1)
    with pytest.raises(UsageError, match=r"1 CUDA card here.*cuda:0"):
        resolve_device("cuda:1")


@pytest.mark.parametrize(
    ("device", "capability", "expected"),
    [
        ("cpu", (9, 0), torch.float32),
        ("mps", (9, 0), torch.float32),
        ("cuda", (7, 5), torch.float32),
        ("cuda", (8, 0), torch.bfloat16),
    ],
)
def test_auto_dtype_is_bf16_only_where_the_card_computes_in_it(
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    capability: tuple[int, int],
    expected: torch.dtype,
) -> None:
    pretend(monkeypatch, cards=1, capability=capability)
    assert resolve_dtype("auto", torch.device(device)) is expected


def test_named_dtypes() -> None:
    cpu = torch.device("cpu")
    assert resolve_dtype("fp32", cpu) is torch.float32
    assert resolve_dtype("bf16", cpu) is torch.bfloat16
    assert resolve_dtype("fp16", cpu) is torch.float16
    with pytest.raises(UsageError, match="no such dtype"):
        resolve_dtype("float64", cpu)


@pytest.mark.parametrize(
    ("asked", "weights", "expected"), [(None, 4_000_000, 1), ("2", 4_000_000, 2), (None, 10**9, 2)]
)
def test_small_networks_run_in_one_thread_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, asked: str | None, weights: int, expected: int
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        limit_threads(torch.device("cpu"), weights)
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


def test_the_embedded_model_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    from apdm_cli.extension.family import load_model

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        load_model("pocket", torch.device("cpu"))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
