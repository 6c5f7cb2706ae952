"""Real processes that run `apdm`, each out of a server that has imported everything once.

To import PyTorch and diffusers takes longer than a whole run of a tiny model. A process of pytest
has one such server, whoever asks first, so what it imports is said here, once for all tests.
POSIX only, as the signals are that these processes are there for.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path

from apdm_cli.runs.interrupts import STOPPING

PRELOADED = [
    "apdm_cli.cli.protect", "apdm_cli.cli.attack", "apdm_cli.cli.evaluate",
    "apdm_cli.protection.run", "apdm_cli.harness.execute", "apdm_cli.harness.workers",
    "apdm_cli.evaluation.evaluate", "apdm_cli.evaluation.extractors", "apdm_cli.report.publish",
    "apdm_attacks.adapters", "apdm_attacks.dreambooth", "apdm_families.stable_diffusion",
    "apdm_families.diffusers_folder", "apdm_metrics.lookup", "apdm_protections.assembly",
    "diffusers.guiders",
]  # fmt: skip
PATIENCE = 300.0  # seconds for one command on a tiny model, on a machine that does other things
Limits = Mapping[int, tuple[int, int]]  # a limit of the module `resource` → soft, hard


class Apdm:
    """`apdm ARGUMENTS` in a process of its own, with one thread.

    It heeds the signals that stop a run as it does in a terminal, whoever started pytest.

    Args:
        said: file that it prints to, both streams; they go to two files beside it when
            `apart` is set.
        limits: set before it begins.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        said: Path,
        *,
        apart: bool = False,
        limits: Limits | None = None,
    ) -> None:
        self._out = said
        self._err = said.with_name(f"{said.name}.err") if apart else said
        self._process = server().Process(
            target=_run, args=(list(arguments), str(self._out), str(self._err), dict(limits or {}))
        )
        self._process.start()
        atexit.register(self.kill)  # for which Python would wait at the end of a failed test
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def out(self) -> str:
        """What it has printed so far."""
        return _text(self._out)

    @property
    def err(self) -> str:
        return _text(self._err)

    @property
    def code(self) -> int | None:
        """Its exit code, negative for a signal that killed it; None while it runs."""
        return self._process.exitcode

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            os.kill(self.pid, number)

    def wait(self, patience: float = PATIENCE) -> int:
        """Its exit code, as soon as it has ended.

        Raises:
            TimeoutError: if it has not within `patience` seconds.
        """
        self._process.join(patience)
        if self.code is None:
            raise TimeoutError(f"apdm still runs after {patience:g} s:\n{self.out}{self.err}")
        return self.code

    def wait_until(self, ready: Callable[[], object]) -> None:
        """Until `ready()`; fails when it ends before."""
        deadline = time.monotonic() + PATIENCE
        while not ready():
            assert self.code is None, f"it ended with {self.code} before:\n{self.out}{self.err}"
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def halted(self, folder: Path) -> list[int]:
        """The ids of the two workers, once both have left a file `halted-ID` in `folder`."""

        def found() -> list[int]:
            return [int(path.name.split("-")[1]) for path in folder.glob("halted-*")]

        self.wait_until(lambda: len(found()) == 2)
        return found()

    def kill(self) -> None:
        """SIGKILL, unless it has ended; returns when it is gone."""
        if self.code is None:
            self._process.kill()
            self._process.join()


def heed_signals() -> None:
    """Make the signals that stop a run do what they do in a terminal, also in child processes.

    A shell starts what it runs in the background with SIGINT ignored, nohup with SIGHUP, and both
    are inherited: `apdm` rightly goes on ignoring them.
    """
    for number in stopping_signals():
        at_start = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, at_start)


def stopping_signals() -> list[signal.Signals]:
    return [getattr(signal, name) for name in STOPPING if hasattr(signal, name)]


def server() -> ForkServerContext:
    """Where processes come from that have everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _run(arguments: list[str], out: str, err: str, limits: Limits) -> None:
    """In the process."""
    for file, descriptor in ((out, 1), (err, 2)):
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(handle, descriptor)
        os.close(handle)
    heed_signals()
    import torch

    torch.set_num_threads(1)
    if limits:
        import resource

        for limit, values in limits.items():
            resource.setrlimit(limit, values)
    from apdm_cli.cli.main import main

    main(arguments)


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
