"""The first-party attacks. They enter through the same door as anybody else's."""

from apdm_attacks.dreambooth import DreamBooth
from apdm_cli.extension.attack import Attack
from apdm_cli.extension.hooks import hookimpl


@hookimpl
def apdm_attacks() -> list[Attack]:
    """One instance of each."""
    return [DreamBooth()]
