"""Somebody else's code, run so that it costs nobody but itself.

What it prints does not reach `--json`; torch's global state is put back; it has a time; and
whatever it raises ends that piece of work only, but for the user's own interrupt.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from apdm_cli.devices import is_out_of_memory
from apdm_cli.errors import ApdmError, said
from apdm_cli.runs.interrupts import Ended, Stopped

MENDING = "Its author can mend that; `apdm --debug ...` shows where it happens."
_AGAIN = 1.0  # seconds until a plugin that swallowed the end of its time is told once more


class OutOfTime(BaseException):
    """The time is over. No `Exception`, so that a plugin's own handling does not catch it."""


@contextlib.contextmanager
def contained(who: str, timeout: float = 0.0) -> Iterator[None]:
    """Run the block as the code of somebody else.

    Args:
        who: "the attack lora", for messages.
        timeout: seconds until it is ended, 0 for never. Only in the main thread, and not on
            Windows.

    Raises:
        ApdmError: it ran out of time, or left by SystemExit or another exception that is meant to
            end a process. Other exceptions, interrupts and `Stopped` pass unchanged.
    """
    try:
        with _leaving(who), prints_to_stderr(), _state_put_back(), _time(timeout):
            yield
    except OutOfTime:
        raise ApdmError(
            f"{who} took more than {timeout:g} seconds",
            "Give it more with --cell-timeout, or fewer steps.",
        ) from None


@contextlib.contextmanager
def _leaving(who: str) -> Iterator[None]:
    """ApdmError for an exception that is meant to end a process, and is nobody's interrupt."""
    try:
        yield
    except (Exception, KeyboardInterrupt, Ended, Stopped, OutOfTime):
        raise
    except BaseException as error:
        raise ApdmError(
            f"{who} left with {named(error)}",
            "A plugin must return its result, and raise an ordinary exception where it cannot.",
        ) from error


@contextlib.contextmanager
def asked(who: str) -> Iterator[None]:
    """Like `contained`, for a question whose answer the whole command needs.

    Raises:
        ApdmError: also for an ordinary exception, which is a bug of theirs and not of the house.
            That memory ran out, or the system refused something, is no bug, and passes.
    """
    with blamed(who), contained(who):
        yield


@contextlib.contextmanager
def blamed(who: str) -> Iterator[None]:
    """What `asked` raises, and nothing else of it: quick enough for a loop, puts nothing back."""
    try:
        with _leaving(who):
            yield
    except (ApdmError, OSError):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ApdmError(f"{who} failed with {named(error)}", MENDING) from error


def named(error: BaseException) -> str:
    """An error in one phrase: `KeyError: 'artifact'`, or `MemoryError` where that is all."""
    name, words = type(error).__name__, said(error)
    return name if words == name else f"{name}: {words}"


@contextlib.contextmanager
def prints_to_stderr() -> Iterator[None]:
    """Also what is written to file descriptor 1, as C libraries and child processes do."""
    with contextlib.redirect_stdout(sys.stderr):
        try:
            if sys.__stdout__ is not None:
                sys.__stdout__.flush()
            kept = os.dup(1)
            os.dup2(2, 1)
        except (OSError, ValueError):  # a process without the usual descriptors
            yield
            return
        try:
            yield
        finally:
            os.dup2(kept, 1)
            os.close(kept)


@contextlib.contextmanager
def _state_put_back() -> Iterator[None]:
    """torch's global switches, and the working directory."""
    folder = os.getcwd()
    try:
        # Before torch is imported, which takes seconds, nobody has changed its switches.
        with _switches_put_back() if "torch" in sys.modules else contextlib.nullcontext():
            yield
    finally:
        with contextlib.suppress(OSError):
            os.chdir(folder)


@contextlib.contextmanager
def _switches_put_back() -> Iterator[None]:
    import torch

    matmul = torch.get_float32_matmul_precision()
    dtype, grad = torch.get_default_dtype(), torch.is_grad_enabled()
    threads = torch.get_num_threads()
    strict = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn
    card = (cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32)
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)
        torch.use_deterministic_algorithms(strict, warn_only=warns)
        torch.set_float32_matmul_precision(matmul)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32 = card


@contextlib.contextmanager
def _time(seconds: float) -> Iterator[None]:
    main = threading.current_thread() is threading.main_thread()
    if seconds <= 0 or not main or not hasattr(signal, "setitimer"):
        yield
        return

    def alarm(number: int, frame: FrameType | None) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, alarm)
    signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
