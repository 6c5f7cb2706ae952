"""Processes that help: what they say arrives, and none is left, however the work ends."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from apdm_cli.runs import workers
from apdm_cli.runs.interrupts import Stopped
from apdm_cli.runs.workers import helping, threads_each
from tests.runs.parts import Parts

CPU = torch.device("cpu")


class Told:
    """A `Watcher` that keeps what it is told."""

    def __init__(self) -> None:
        self.all: list[tuple[Any, ...]] = []

    def __getattr__(self, what: str) -> Callable[..., None]:
        return lambda *arguments, **terms: self.all.append((what, *arguments, *terms.items()))


def until(happened: Callable[[], object]) -> None:
    """Wait for another process, for a minute at most."""
    end = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_what_workers_say_arrives_in_order(tmp_path: Path) -> None:
    told: dict[str, Told] = {}
    threads = torch.get_num_threads()

    def watch(name: str) -> Told:
        return told.setdefault(name, Told())

    with helping(Parts(tmp_path, "done"), [CPU, CPU], watch):
        assert torch.get_num_threads() == 1
        until(lambda: len(list(tmp_path.iterdir())) == 2 and not multiprocessing.active_children())
    assert list(told) == ["worker 2 (cpu)", "worker 3 (cpu)"]
    for number, watcher in zip((2, 3), told.values(), strict=True):
        assert watcher.all == [
            ("takes", f"part {number}"),
            ("said", "1 thread on cpu"),
            ("stage", "Working", 2, 0, "pictures"),
            ("advance", 1, ("loss", 0.5)),
            ("advance", 1),
            ("leaves",),
            ("leaves",),  # and when nothing more can come
        ]
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("broken", ["The part is broken.", "worker 2 (cpu) ended early (exit code 1); "]),
        ("killed", ["worker 2 (cpu) ended early (signal 9); "]),
    ],
)
def test_a_worker_that_ends_early_is_told_and_the_others_go_on(
    tmp_path: Path, kind: str, said: list[str]
) -> None:
    told = Told()
    with helping(Parts(tmp_path, kind), [CPU], lambda name: told):
        until(lambda: not multiprocessing.active_children())
    heard = [sentence for what, *rest in told.all for sentence in rest if what == "said"]
    assert len(heard) == len(said)
    assert all(one.startswith(start) for one, start in zip(heard, said, strict=True))


def test_when_the_command_stops_workers_write_their_checkpoints_first(tmp_path: Path) -> None:
    told = Told()
    with (
        pytest.raises(Stopped, match="by a signal"),
        helping(Parts(tmp_path, "kept"), [CPU], lambda name: told),
    ):
        until((tmp_path / "began").exists)
        raise Stopped("By a signal: by a signal.")
    assert (tmp_path / "checkpoint").exists() and not multiprocessing.active_children()
    assert all(what != "said" for what, *_ in told.all)


def test_a_second_signal_leaves_no_worker_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "AT_ONCE", 0.05)
    with (
        pytest.raises(KeyboardInterrupt),
        helping(Parts(tmp_path, "deaf"), [CPU], lambda name: Told()),
    ):
        until((tmp_path / "began").exists)
        raise KeyboardInterrupt
    assert not multiprocessing.active_children()


def test_without_other_devices_nobody_is_started(tmp_path: Path) -> None:
    with helping(Parts(tmp_path, "done"), [], lambda name: pytest.fail("nobody to watch")):
        assert not multiprocessing.active_children()
    assert list(tmp_path.iterdir()) == []


def test_a_worker_makes_its_card_the_current_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", made.append)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(workers.signal, "signal", lambda *_: None)
    monkeypatch.setattr(workers, "_end_with_parent", lambda: None)
    card = torch.device("cuda", 1)
    workers._work(Parts(tmp_path, "done"), card, 2, multiprocessing.Pipe()[1])
    assert made == [card] and (tmp_path / "2").exists()


def test_workers_share_the_threads_and_each_has_one() -> None:
    assert threads_each(1) == torch.get_num_threads()
    assert threads_each(10_000) == 1
