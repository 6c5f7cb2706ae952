"""`apdm plugins` (not written yet)."""

from apdm_cli.errors import ApdmError


def plugins() -> None:
    """Not written yet."""
    raise ApdmError("apdm plugins is not written yet.")
