"""The first-party protections. They enter through the same door as anybody else's."""

from apdm_cli.extension.hooks import hookimpl
from apdm_cli.extension.protection import Protection
from apdm_protections.apdm import APDM
from apdm_protections.naive import Naive


@hookimpl
def apdm_protections() -> list[Protection]:
    """One instance of each."""
    return [APDM(), Naive()]
