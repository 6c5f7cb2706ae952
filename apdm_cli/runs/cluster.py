"""What needs neither Ray nor torch to be said of a cluster."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from pathlib import Path

from apdm_cli.errors import ApdmError

INSTALL_RAY = "Install the extra: pip install 'apdm[cluster]'"


def require_ray() -> None:
    """Raise ApdmError where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise ApdmError(
            "--cluster needs the package ray, which is not installed",
            INSTALL_RAY,
        )


def home_of(command: str) -> Path:
    """The folder, on this machine, of a command on another one."""
    return Path(tempfile.gettempdir()) / f"apdm-{command}"


def clear(command: str, first: str) -> None:
    """Remove what `command` has left here: of every folder in its home, `first` before all else.

    That is little, unless a process was killed.
    """
    home = home_of(command)
    for private in home.glob(f"*/{first}"):
        shutil.rmtree(private, ignore_errors=True)
    shutil.rmtree(home, ignore_errors=True)
