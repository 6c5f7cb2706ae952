"""Whether Ray is here: known without importing it, or torch."""

from __future__ import annotations

import importlib.util

from apdm_cli.errors import ApdmError


def require_ray() -> None:
    """Raise ApdmError where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise ApdmError(
            "--cluster needs the package ray, which is not installed",
            "Install the extra: pip install 'apdm[cluster]'",
        )
