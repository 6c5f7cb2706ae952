"""`apdm demo` (not written yet)."""

from apdm_cli.errors import ApdmError


def demo() -> None:
    """Not written yet."""
    raise ApdmError("apdm demo is not written yet.")
