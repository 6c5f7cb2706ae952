"""Where the system keeps a user's settings and caches for programs. Nothing is made here."""

from __future__ import annotations

import os
import sys
from pathlib import Path

NAME = "apdm"


def config_folder() -> Path:
    """The folder of the user's `apdm.toml`: `~/.config/apdm` on Linux."""
    if sys.platform == "win32":
        return _given("APPDATA", Path.home() / "AppData" / "Roaming") / NAME
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / NAME
    return _given("XDG_CONFIG_HOME", Path.home() / ".config") / NAME


def cache_folder() -> Path:
    """The folder of what may be deleted at any time: `~/.cache/apdm` on Linux.

    The environment variable APDM_CACHE_DIR names another one.
    """
    own = os.environ.get("APDM_CACHE_DIR")
    if own:
        return Path(own).expanduser()
    if sys.platform == "win32":
        return _given("LOCALAPPDATA", Path.home() / "AppData" / "Local") / NAME
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / NAME
    return _given("XDG_CACHE_HOME", Path.home() / ".cache") / NAME


def _given(variable: str, default: Path) -> Path:
    path = Path(os.environ.get(variable, ""))
    return path if path.is_absolute() else default  # relative ones are to be ignored (XDG)
