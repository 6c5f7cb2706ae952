"""Anti-personalized diffusion models: protect a subject, attack the protection, report honestly."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("apdm")
except PackageNotFoundError:  # used from a source tree that was never installed
    __version__ = "0.0.0+uninstalled"

__all__ = ["__version__"]
