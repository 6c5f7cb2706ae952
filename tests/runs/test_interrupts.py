"""Signals wait for the end of a step."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from apdm_cli.runs.interrupts import Ended, Stopped, StopSignals

pytestmark = pytest.mark.usefixtures("heeded_signals")
NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_is_noted_and_told_once(number: int) -> None:
    before = signal.getsignal(number)
    told: list[bool] = []
    with StopSignals(lambda: told.append(True)) as signals:
        seen = [signals.received]
        os.kill(os.getpid(), number)
        seen.append(signals.received)
        assert seen == [False, True]
    assert told == [True]
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", NUMBERS)
def test_what_is_ignored_from_the_start_stays_ignored(number: int) -> None:
    """By nohup, or by a shell that runs us in the background."""
    signal.signal(number, signal.SIG_IGN)
    with StopSignals() as signals:
        os.kill(os.getpid(), number)
        signal.sigpending()
        assert not signals.received
    assert signal.getsignal(number) == signal.SIG_IGN


def test_a_second_ctrl_c_interrupts_at_once() -> None:
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            signal.sigpending()  # a call in which Python looks for signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_ends_at_once_and_says_which(number: int) -> None:
    told: list[bool] = []
    with StopSignals(lambda: told.append(True)):
        os.kill(os.getpid(), number)
        with pytest.raises(Ended) as ended:
            os.kill(os.getpid(), number)
            signal.sigpending()
    assert ended.value.code == 128 + number
    assert told == [True]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_stopped_run_exits_as_its_signal_says(number: int) -> None:
    with StopSignals():
        os.kill(os.getpid(), number)
        signal.sigpending()
        assert Stopped("stopped").exit_code == 128 + number


def test_a_third_signal_ends_what_has_caught_the_second() -> None:
    code = (
        "import os, signal\nfrom apdm_cli.runs.interrupts import StopSignals\n"
        "with StopSignals():\n"
        "    while True:\n"
        "        try:\n            os.kill(os.getpid(), signal.SIGTERM)\n"
        "        except BaseException:\n            pass\n"
    )
    root = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", code], cwd=root, timeout=60)
    assert ended.returncode == 143


def test_a_child_process_of_a_test_heeds_every_signal() -> None:
    """What `heeded_signals` promises to the tests that send signals to a command of their own."""
    code = (
        "import signal\nfrom apdm_cli.runs.interrupts import StopSignals\n"
        "with StopSignals() as signals:\n"
        "    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):\n"
        "        assert signal.getsignal(number) == signals._note, number\n"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, timeout=60).returncode == 0
