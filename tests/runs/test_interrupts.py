"""Signals wait for the end of a step."""

from __future__ import annotations

import os
import signal

import pytest

from apdm_cli.runs.interrupts import StopSignals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_and_told_once(number: int) -> None:
    before = signal.getsignal(number)
    told: list[bool] = []
    with StopSignals(lambda: told.append(True)) as signals:
        seen = [signals.received]
        os.kill(os.getpid(), number)
        seen.append(signals.received)
        assert seen == [False, True]
        if number == signal.SIGTERM:
            os.kill(os.getpid(), number)
    assert told == [True]
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_interrupts_at_once() -> None:
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            signal.sigpending()  # a call in which Python looks for signals
