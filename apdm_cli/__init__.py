"""Anti-personalized diffusion models: protect a subject, attack the protection, report honestly."""

from __future__ import annotations

__all__ = ["__version__"]


def __getattr__(name: str) -> str:
    """The version when it is asked for: what reads it takes longer than all of this to import."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("apdm")
    except PackageNotFoundError:  # used from a source tree that was never installed
        found = "0.0.0+uninstalled"
    globals()["__version__"] = found
    return found
