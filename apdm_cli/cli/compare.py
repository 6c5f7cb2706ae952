"""`apdm compare` (not written yet)."""

from apdm_cli.errors import ApdmError


def compare() -> None:
    """Not written yet."""
    raise ApdmError("apdm compare is not written yet.")
