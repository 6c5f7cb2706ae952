"""Work for workers: each kind of end that a part can come to."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from apdm_cli.errors import ApdmError
from apdm_cli.runs.interrupts import Stopped, StopSignals
from apdm_cli.runs.workers import Watcher


@dataclass(frozen=True)
class Parts:
    """A `Task` of one part for each worker, which leaves files in `folder`."""

    folder: Path
    kind: str

    threads = 1

    def work(self, device: torch.device, number: int, reports: Watcher) -> None:
        getattr(self, self.kind)(device, number, reports)

    def done(self, device: torch.device, number: int, reports: Watcher) -> None:
        reports.takes(f"part {number}")
        reports.said(f"{torch.get_num_threads()} thread on {device}")
        reports.stage("Working", 2, unit="pictures")
        reports.advance(loss=0.5)
        reports.advance(1)
        reports.leaves()
        (self.folder / str(number)).touch()

    def broken(self, device: torch.device, number: int, reports: Watcher) -> None:
        raise ApdmError("The part is broken.")

    def killed(self, device: torch.device, number: int, reports: Watcher) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def kept(self, device: torch.device, number: int, reports: Watcher) -> None:
        """Stops with a checkpoint when it is told to."""
        with StopSignals() as signals:
            (self.folder / "began").touch()
            while not signals.received:
                time.sleep(0.01)
            (self.folder / "checkpoint").touch()
            raise Stopped("It was stopped.")

    def deaf(self, device: torch.device, number: int, reports: Watcher) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (self.folder / "began").touch()
        time.sleep(600)
