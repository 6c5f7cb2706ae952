"""TensorBoard event files beside a log of steps, for those who watch runs there.

They hold what the log holds and nothing else: whoever opens them again writes them anew from it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from apdm_cli.errors import ApdmError

PREFIX = "events.out.tfevents."
NO_CURVES = frozenset({"step", "index"})  # numbers of a row that only count its steps


def require_tensorboard() -> None:
    """Raise ApdmError where event files cannot be written; imports nothing heavy."""
    if importlib.util.find_spec("tensorboard") is None:
        raise ApdmError(
            "--log tensorboard needs the package tensorboard, which is not installed",
            "Install the extra: pip install 'apdm[tensorboard]'",
        )


class Events:
    """Writes a curve for every number in the rows of a log, at the row's step.

    Args:
        folder: that of the log; event files of an earlier process there are replaced.
        rows: what the log holds already.
    """

    def __init__(self, folder: Path, rows: Iterable[Mapping[str, Any]] = ()) -> None:
        require_tensorboard()

        from torch.utils.tensorboard import SummaryWriter

        for old in folder.glob(f"{PREFIX}*"):
            old.unlink(missing_ok=True)
        self._writer: Any = SummaryWriter(str(folder))
        for row in rows:
            self.add(row)

    def add(self, row: Mapping[str, Any]) -> None:
        """One point per number; text, and what is no number, has no curve."""
        for name, value in row.items():
            if name not in NO_CURVES and isinstance(value, int | float):
                self._writer.add_scalar(name, value, row.get("step"))

    def close(self) -> None:
        """Write what is still in memory."""
        self._writer.close()
