"""`apdm evaluate` (not written yet)."""

from apdm_cli.errors import ApdmError


def evaluate() -> None:
    """Not written yet."""
    raise ApdmError("apdm evaluate is not written yet.")
