"""`apdm attack` (not written yet)."""

from apdm_cli.errors import ApdmError


def attack() -> None:
    """Not written yet."""
    raise ApdmError("apdm attack is not written yet.")
