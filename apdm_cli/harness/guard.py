"""Somebody else's code, run so that it costs nobody but itself.

What an attack prints does not reach `--json`; torch's global state is put back; a cell has a time;
and whatever is raised ends that cell only, but for the user's own interrupt.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import torch
from safetensors import SafetensorError, safe_open

from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.errors import ApdmError, said
from apdm_cli.runs.interrupts import Ended, Stopped

_AGAIN = 1.0  # seconds until a plugin that swallowed the end of its time is told once more
_CHUNK = 2**24  # numbers of a tensor that are looked at together


class OutOfTime(BaseException):
    """A cell's time is over. No `Exception`, so that a plugin's own handling does not catch it."""


@contextlib.contextmanager
def contained(timeout: float = 0.0) -> Iterator[None]:
    """Run the block as somebody else's code.

    Args:
        timeout: seconds until it is ended, 0 for never. Only in the main thread, and not on
            Windows.

    Raises:
        ApdmError: it ran out of time, or left by SystemExit or another exception that is meant to
            end a process. Other exceptions, interrupts and `Stopped` pass unchanged.
    """
    try:
        with _prints_to_stderr(), _state_put_back(), _time(timeout):
            yield
    except (Exception, KeyboardInterrupt, Ended, Stopped):
        raise
    except OutOfTime:
        raise ApdmError(
            f"the attack took more than {timeout:g} seconds",
            "Give it more with --cell-timeout, or fewer steps.",
        ) from None
    except BaseException as error:
        raise ApdmError(
            f"the attack left with {type(error).__name__} ({said(error)})",
            "An attack must return its artifact, and raise an ordinary exception where it cannot.",
        ) from error


def checksum(model: DiffusionModel) -> dict[str, tuple[int, int]]:
    """Two sums over the bits of every tensor of `model`: equal, if nothing was changed."""
    return {
        f"{name}.{key}": _sums(tensor)
        for name, network in model.networks().items()
        for key, tensor in network.state_dict().items()
    }


def require_finite_files(folder: Path) -> None:
    """Refuse an artifact with NaN or infinities in its `.safetensors`.

    Raises:
        ApdmError: the file and the tensor are named.
    """
    for file in sorted(folder.rglob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as tensors:
                names = list(tensors.keys())
                wrong = [name for name in names if not _is_finite(tensors.get_tensor(name))]
        except (OSError, SafetensorError) as error:
            raise ApdmError(f"{file} cannot be read again: {error}") from error
        if wrong:
            raise ApdmError(
                f"the attack ended with weights that are not finite: {wrong[0]} in {file.name}",
                "Its last step went too far: lower its learning rate.",
            )


def _is_finite(tensor: torch.Tensor) -> bool:
    if not tensor.is_floating_point():
        return True
    return all(bool(torch.isfinite(part).all()) for part in tensor.flatten().split(_CHUNK))


def _sums(tensor: torch.Tensor) -> tuple[int, int]:
    """Of the bits as whole numbers, and of their squares (both modulo 2⁶⁴)."""
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    flat = tensor.detach().reshape(-1)
    if not flat.is_complex():
        flat = flat.view(kinds[flat.element_size()])
    first = second = 0
    for part in flat.split(_CHUNK):
        whole = part.to(torch.int64)
        first += int(whole.sum())
        second += int((whole * whole).sum())
    return first, second


@contextlib.contextmanager
def _prints_to_stderr() -> Iterator[None]:
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
        with contextlib.suppress(OSError):
            os.chdir(folder)


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
